"""Job arrays of shards as `pirepro cancel` sees them, and what any job's command says of copies and accepted terms."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from pi_repro.errors import RequestError
from pi_repro.launch import cancel, cluster
from pi_repro.launch.cluster import Cluster
from pi_repro.launch.places import Places
from pi_repro.launch.slurm import arrays, arrayscript, runner, sites
from pi_repro.launch.slurm.arrayscript import script
from pi_repro.launch.slurm.runner import SlurmRunner
from pi_repro.spec import supplied
from pi_repro.spec.loading import load_card
from pi_repro.spec.site import Site

from .test_slurm_submission import job

ROOT = Path(__file__).parents[2]
#: squeue gives the rows of a file that it is asked for by name; scancel takes an array's out, and notes it.
_SQUEUE = """#!/bin/sh
[ ! -e "$ROWS.down" ] || exit 1
for word; do case $word in --name=*) names=${word#--name=};; esac; done
grep -E "^($(echo "$names" | tr , '|'))\\|" "$ROWS" || true
"""
_SCANCEL = """#!/bin/sh
echo "$@" >>"$ROWS.cancelled"
sed -i "/|$1|/d" "$ROWS"
"""


@pytest.fixture
def moon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A site whose SLURM is a file of rows."""
    for name in (sites.VARIABLE, supplied.FROM, supplied.ACCEPTED, supplied.PATIENCE):
        monkeypatch.delenv(name, raising=False)
    for name, text in (("squeue", _SQUEUE), ("scancel", _SCANCEL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("ROWS", str(tmp_path / "rows"))
    monkeypatch.setattr(cancel.params, "plan", lambda _: SimpleNamespace(stage=_unknown))
    workspace = tmp_path / "a|b"
    folder = workspace / "slurm" / "sites"
    folder.mkdir(parents=True)
    (folder / "moon.yaml").write_text(json.dumps({"name": "moon", "runtime": {"kind": "none"}, "poll_s": 0.1}))
    own = workspace / ".pirepro"
    return cluster.asked("moon", Places(workspace, own / "scratch", own / "store", own / "downloads", None))


def _unknown(name: str) -> None:
    raise RequestError("no such stage", given=name)


def test_cancel_ends_this_workspace_s_arrays_by_their_dataset(moon: Cluster, tmp_path: Path) -> None:
    places, rows = moon.places, tmp_path / "rows"
    first, second = places.scratch / ("a" * 64), places.scratch / ("b" * 64)
    arrays.note(first, "fetch@yfcc15m", None, 2)  # its submitter died before it knew the number
    arrays.note(second, "fetch@nights", "31", 2)
    (places.scratch / "notes").mkdir()
    mine, other = str(places.workspace), str(tmp_path / "clone")
    rows.write_text(
        f"{first.name}|12|0|RUNNING|None|{mine}\n{first.name}|12|1|PENDING|Resources|{mine}\n"
        f"{first.name}|11|0|CANCELLED|None|{mine}\n{first.name}|13|0|RUNNING|None|{other}\n"
        f"{second.name}|31|N/A|PENDING|Priority|{mine}\n"
    )
    assert [task.index for task in arrays.tasks([first.name, second.name]) or ()] == [0, 1, 0, 0, None]
    with pytest.raises(RequestError, match="no such stage"):
        cancel.cancel(["fetch@nights", "fetch@nigths"], places, moon)
    assert not (tmp_path / "rows.cancelled").exists(), "a misspelt name stopped something"
    told = cancel.cancel(["fetch@nights"], places, moon)
    assert told == {"fetch@nights": "array job 31 was ended; whole shards stay"}
    (tmp_path / "rows.down").touch()
    assert set(cancel.cancel([], places, moon).values()) == {"SLURM does not answer; try again"}
    (tmp_path / "rows.down").unlink()
    assert cancel.cancel([], places, moon) == {"fetch@yfcc15m": "array job 12 was ended; whole shards stay"}
    assert (tmp_path / "rows.cancelled").read_text().split() == ["31", "12"]
    left = arrays.living(first)
    assert left is not None and left.job == "13", "another clone's goes on, and may be waited for"
    assert cancel.cancel([], places, moon) == {}


def test_an_array_that_does_not_end_is_told(moon: Cluster, tmp_path: Path) -> None:
    folder, mine = moon.places.scratch / ("a" * 64), moon.places.workspace
    arrays.note(folder, "fetch@yfcc15m", "12", 1)
    (tmp_path / "rows").write_text(f"{folder.name}|12|0|RUNNING|None|{mine}\n")
    (tmp_path / "bin" / "scancel").write_text("#!/bin/sh\n")
    assert arrays.cancel(arrays.noted(moon.places.scratch), mine, 0.2, 0.05) == [
        ("fetch@yfcc15m", "array job 12 was asked to end")
    ]


def test_a_request_while_the_host_is_prepared_reaches_the_task(moon: Cluster, tmp_path: Path) -> None:
    stand_ins = {
        "module": "kill -USR2 $PPID",  # what `module load` runs, before the task starts
        "srun": f"touch {tmp_path}/began\ntrap 'exit 130' USR2\nfor _ in {{1..300}}; do sleep 0.05; done",
        "scontrol": 'echo "$@" >>"$ROWS.requeued"\n(while sleep 0.2; kill -TERM $PPID; do :; done) >/dev/null 2>&1 &',
    }
    for name, text in stand_ins.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    fields = {"name": "a", "here": (), "runtime": {"kind": "none"}, "modules": ("x",), "requeues": 5}
    site = Site.model_validate(fields)
    text = script(load_card(ROOT / "specs/data/nights.yaml"), tmp_path, 2, Cluster("a", site, moon.places), moon.places)
    environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "0"}
    subprocess.run(["bash", "-c", text], env=environment, timeout=20, check=False, capture_output=True)
    assert (tmp_path / "rows.requeued").read_text() == "requeue 12_0\n"


def test_copies_and_accepted_terms_reach_every_job(
    moon: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch hands on nothing that begins with PIREPRO_, and a container sees only what its command names."""
    copy = tmp_path / "a copy"
    given = {
        supplied.FROM: json.dumps({"nights-zip": str(copy)}),
        supplied.ACCEPTED: "imagenet1k, birdsnap",
        supplied.PATIENCE: '{"tries": 3}',
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    image = SimpleNamespace(digest="d", manifest="m", prologue=lambda _: ())
    site = Site.model_validate({"name": "a", "here": (), "runtime": {"kind": "podman", "image": "i"}})
    monkeypatch.setattr(arrayscript.container, "image_of", lambda *_: image)
    monkeypatch.setattr(runner.capture, "git_state", lambda _: {})
    places = moon.places
    command = SlurmRunner(site, places, image)._command(job(tmp_path, "fetch"), tmp_path / "job.json")  # type: ignore[arg-type]
    card = load_card(ROOT / "specs/data/nights.yaml")
    text = script(card, tmp_path, 2, Cluster("a", site, places), places)
    (line,) = [line for line in text.splitlines() if line.startswith("srun=(")]
    for words in (command, shlex.split(line.removeprefix("srun=(").removesuffix(")"))):
        assert {f"{name}={value}" for name, value in given.items()} <= set(words)
        assert f"--volume={copy}:{copy}" in words
    assert supplied.accepted() == {"imagenet1k", "birdsnap"}
    monkeypatch.setenv(supplied.ACCEPTED, " ")
    assert supplied.ACCEPTED not in supplied.variables() and supplied.accepted() == set()
