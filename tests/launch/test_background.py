"""A driver in the background ends for whoever attaches as it ended for itself."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from pi_repro.errors import Interrupted, PireproError, RequestError, StateError
from pi_repro.launch import background, writer
from pi_repro.launch.places import Places

#: A door that drives until a file appears, and ends with the status that stands there.
DOOR = """
import sys, time
from pathlib import Path
from pi_repro.launch import background, writer
from pi_repro.launch.places import Places
root = Path.cwd()
note = background.begin()
with writer.driving(Places(root, root, root, root, None), "run"):
    print("begun", *sys.argv[1:], flush=True)
    while not (root / "end").is_file():
        time.sleep(0.02)
    print("done", flush=True)
time.sleep(1)  # as a driver does: what came out of it is said when its record has ended
print("last words", flush=True)
note(int((root / "end").read_text()))
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A workspace whose `python -m pi_repro` is the door above."""
    (tmp_path / "door.py").write_text(DOOR)
    (tmp_path / "python").write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {tmp_path / "door.py"} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.chdir(tmp_path)
    return Places(tmp_path, tmp_path, tmp_path, tmp_path, None)


def end(places: Places, status: int) -> None:
    (places.workspace / "aside").write_text(str(status))
    (places.workspace / "aside").rename(places.workspace / "end")


def test_attach_says_all_and_ends_with_the_driver_s_status(places: Places) -> None:
    background.start(["run", "specs/a b.yaml"], places)
    said: list[str] = []

    def hear(text: str) -> None:
        said.append(text)
        end(places, 7)

    assert background.attach(places, hear) == 7
    assert "".join(said) == "begun run specs/a b.yaml\ndone\nlast words\n"
    said.clear()
    assert background.attach(places, said.append) == 7, "after its end, too"
    assert "last words" in said[0] and "status 7" in said[0]


def test_a_killed_driver_is_told_from_one_that_ended(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_LAST_WORDS_S", 0.1)
    os.kill(background.start([], places), signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(StateError, match="killed"):
        background.attach(places, lambda _: None)


def test_a_second_driver_is_refused_and_leaves_the_first_one_s_log_alone(places: Places) -> None:
    first = background.start([], places)
    while "begun" not in background.log(places).read_text():
        time.sleep(0.01)
    with pytest.raises(StateError, match=f"process {first}"):
        background.start([], places)
    assert "begun" in background.log(places).read_text()
    end(places, 0)
    assert background.attach(places, lambda _: None) == 0


def test_paths_mean_the_same_to_the_driver(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pirepro run demo.yaml --detach` in specs/."""
    (places.workspace / "specs").mkdir()
    (places.workspace / "specs" / "demo.yaml").write_text("x")
    (places.workspace / "door.py").write_text("import sys; print(open(sys.argv[1]).read())")
    monkeypatch.chdir(places.workspace / "specs")
    background.start(["demo.yaml"], places)
    assert background.log(places).read_text() == "x\n"


@pytest.mark.parametrize(("status", "kind"), [(1, StateError), (2, RequestError), (3, StateError), (130, Interrupted)])
def test_what_can_t_begin_is_told_at_once(places: Places, status: int, kind: type[PireproError]) -> None:
    lines = "\n".join(f"line {number} of the log" for number in range(99))
    (places.workspace / "door.py").write_text(f"import sys; print({lines!r} + ': no such spec'); sys.exit({status})")
    with pytest.raises(kind, match=f"status {status}") as refusal:
        background.start([], places)
    assert "no such spec" in str(refusal.value) and str(refusal.value).count("of the log") == 20


def test_there_is_nothing_to_attach_to(places: Places) -> None:
    with pytest.raises(StateError, match="no driver was started") as refusal:
        background.attach(places, lambda _: None)
    assert "--detach" in str(refusal.value)
    with writer.driving(places, "run"), pytest.raises(StateError, match="foreground"):
        background.attach(places, lambda _: None)
