"""Files that a spec gives to a stage: found in the checkout, and refused when they are not what was planned with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pi_repro.errors import StateError
from pi_repro.files import sha256_file
from pi_repro.launch import worker


def test_a_given_file_is_the_one_that_was_planned_with(tmp_path: Path) -> None:
    file = tmp_path / "specs" / "rsa" / "m.csv"
    file.parent.mkdir(parents=True)
    file.write_text("0,1\n1,0\n")
    given = {"rsa-matrix": {"file": "rsa/m.csv", "sha256": sha256_file(file)}}
    job: Any = SimpleNamespace(payload={"settings": {"given": given}}, places=SimpleNamespace(workspace=tmp_path))
    assert worker._given(job) == {"rsa-matrix": file}
    file.write_text("0,2\n2,0\n")
    with pytest.raises(StateError, match="has changed") as error:
        worker._given(job)
    assert error.value.where == str(file)
    file.unlink()
    with pytest.raises(StateError, match="is missing"):
        worker._given(job)
    assert worker._given(SimpleNamespace(payload={"settings": {}})) == {}  # type: ignore[arg-type]
