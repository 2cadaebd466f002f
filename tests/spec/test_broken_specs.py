"""Broken specs: every one gets one message with its place, exit status 2, and never a traceback."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pi_repro.errors import PireproError, RequestError
from pi_repro.spec.loading import load

ROOT = Path(__file__).parents[2]

#: name -> (text to replace, replacement, what the message must hold).
BROKEN: dict[str, tuple[str, str, list[str]]] = {
    "misspelt field": ("  baseline: random", "  baselin: random", ["baselin", "did you mean 'baseline'"]),
    "unknown field": ("  mode: exact", "  mode: exact\n  colour: blue", ["science.colour", "no such field"]),
    "misspelt top field": ("resources:", "resource:", ["did you mean 'resources'"]),
    "missing field": ("  mode: exact\n", "", ["'mode' is missing"]),
    "missing section": ("  baseline: random\n", "", ["'baseline' is missing"]),
    "wrong device": ("device: cpu", "device: gpu", ["science.device", "'cpu' or 'cuda'", "'gpu'"]),
    "misspelt mode": ("mode: exact", "mode: exakt", ["did you mean 'exact'"]),
    "text for a number": ("lr: 1e-3", "lr: fast", ["optimizer.lr", "'fast'"]),
    "negative rate": ("lr: 1e-3", "lr: -1e-3", ["optimizer.lr", "greater than 0"]),
    "zero rate": ("lr: 1e-3", "lr: 0", ["optimizer.lr"]),
    "infinite rate": ("lr: 1e-3", "lr: .inf", ["optimizer.lr", "finite"]),
    "not a number": ("lr: 1e-3", "lr: .nan", ["optimizer.lr", "finite"]),
    "one beta": ("betas: [0.9, 0.98]", "betas: [0.9]", ["optimizer.betas"]),
    "three betas": ("betas: [0.9, 0.98]", "betas: [0.9, 0.98, 0.99]", ["optimizer.betas"]),
    "beta past one": ("betas: [0.9, 0.98]", "betas: [0.9, 1.98]", ["betas", "less than or equal to 1"]),
    "unknown optimizer": ("name: adamw", "name: adanw", ["did you mean 'adamw'"]),
    "fractional epochs": ("epochs: 4", "epochs: 4.5", ["pretrain.epochs", "integer"]),
    "no epochs": ("epochs: 4", "epochs: 0", ["pretrain.epochs"]),
    "batch no power": (
        "batch: 64\n    micro_batch: 16",
        "batch: 48\n    micro_batch: 16",
        ["power of two", "pretrain"],
    ),
    "batch no multiple": ("batch: 64\n    micro_batch: 16", "batch: 64\n    micro_batch: 10", ["power of two"]),
    "kept past the end": ("keep_epochs: [0, 1]", "keep_epochs: [0, 9]", ["past the last"]),
    "kept twice": ("keep_epochs: [0, 1]", "keep_epochs: [1, 1]", ["once"]),
    "no GPU for cuda": ("device: cpu", "device: cuda", ["cuda needs GPUs"]),
    "GPUs for cpu": ("  gpus: 0", "  gpus: 2", ["cpu takes none"]),
    "three processes": ("  gpus: 0", "  gpus: 0\n  processes: 3", ["3 processes", "1, 2, 4 can"]),
    "eight processes": ("  gpus: 0", "  gpus: 0\n  processes: 8", ["8 processes", "1, 2, 4 can"]),
    "no seeds": ("seeds: [0]", "seeds: []", ["science.seeds"]),
    "one seed twice": ("seeds: [0]", "seeds: [3, 3]", ["twice"]),
    "negative seed": ("seeds: [0]", "seeds: [-1]", ["science.seeds"]),
    "seed as text": ("seeds: [0]", "seeds: [one]", ["science.seeds", "'one'"]),
    "seeds no list": ("seeds: [0]", "seeds: 0", ["science.seeds"]),
    "baseline no arm": ("baseline: random", "baseline: rand", ["baseline 'rand' is not an arm"]),
    "arm starts nowhere": ("start: random", "start: nothing", ["starts from 'nothing'"]),
    "arm without stages": ("      stages: [initialize, pretrain]", "      stages: []", ["stages"]),
    "arm in wrong order": ("stages: [initialize, pretrain]", "stages: [pretrain, initialize]", ["in that order"]),
    "arm of unknown stage": (
        "stages: [initialize, pretrain]",
        "stages: [initialise, pretrain]",
        ["did you mean 'initialize'"],
    ),
    "override of no stage": (
        "      stages: [initialize, pretrain]",
        "      stages: [pretrain]\n      override: {finetune: {epochs: 2}}",
        ["does not run"],
    ),
    "override of no field": (
        "      stages: [initialize, pretrain]",
        "      stages: [initialize, pretrain]\n      override: {initialize: {epoch: 2}}",
        ["arms.pi.override.initialize.epoch", "did you mean 'epochs'"],
    ),
    "override of wrong value": (
        "      stages: [initialize, pretrain]",
        "      stages: [initialize, pretrain]\n      override:\n        initialize: {epochs: many}",
        ["arms.pi.override.initialize.epochs"],
    ),
    "arm of bad name": ("    pi:\n", "    Pi_1:\n", ["science.arms"]),
    "unknown data": ("data: tiny-pairs", "data: tiny-pears", ["no card", "did you mean 'tiny-pairs'"]),
    "data of wrong kind": ("data: tiny-pairs", "data: tiny-triplets", ["holds triplets, not pairs"]),
    "unknown suite": ("suite: tiny-suite", "suite: tiny-suit", ["did you mean 'tiny-suite'"]),
    "unknown model": ("name: pi-demo-64 ", "name: pi-demo-46 ", ["no such model", "pi-demo-64"]),
    "path as model": ("name: pi-demo-64 ", "name: ../../etc/passwd ", ["model.name"]),
    "unknown objective": ("{name: triplet_hinge,", "{name: triplet_hing,", ["no such objective", "triplet_hinge"]),
    "negative margin": ("margin: 0.05", "margin: -0.05", ["objective.options.margin"]),
    "unknown option": ("margin: 0.05", "margn: 0.05", ["margn", "did you mean 'margin'"]),
    "unknown adapter": ("{name: full}", "{name: fool}", ["no such adapter", "full"]),
    "bad pattern": ("visual\\\\.transformer", "visual(", ["regular expression"]),
    "crop without scale": (
        "augmentation: {kind: resize}",
        "augmentation: {kind: random_resized_crop}",
        ["needs scale"],
    ),
    "scale without crop": (
        "augmentation: {kind: resize}",
        "augmentation: {kind: resize, scale: [0.1, 1]}",
        ["takes no scale"],
    ),
    "scale reversed": (
        "augmentation: {kind: resize}",
        "augmentation: {kind: random_resized_crop, scale: [0.9, 0.1]}",
        ["low <= high"],
    ),
    "name with spaces": ("name: demo-tiny", "name: demo tiny", ["name"]),
    "name with a command": ("name: demo-tiny", "name: '$(touch x)'", ["name"]),
    "field twice": ("  mode: exact", "  mode: exact\n  mode: exact", ["given twice"]),
    "tab": ("  mode: exact", "\tmode: exact", ["no valid YAML"]),
    "open bracket": ("seeds: [0]", "seeds: [0", ["no valid YAML"]),
    "python tag": ("seeds: [0]", "seeds: !!python/object/apply:os.system ['true']", ["not plain data"]),
    "date": ("title:", "title: 2026-01-01\nnotice:", ["given twice"]),
    "number as key": ("  mode: exact", "  mode: exact\n  7: x", ["must be text"]),
    "list for a section": ("  evaluate:\n", "  evaluate: []\n  evalu:\n", ["science.evaluate"]),
    "null section": ("  evaluate:\n", "  evaluate: null\n  evalu:\n", ["science.evaluate"]),
    "workers below zero": ("workers: 0", "workers: -1", ["resources.workers"]),
    "rate of no stage": ("    align: {", "    aline: {", ["did you mean 'align'"]),
    "recall of none": ("recall_k: [1, 5, 10]", "recall_k: [0]", ["recall_k"]),
    "three triplet sets": (
        "      - {data: tiny-triplets, splits: [val, test]}\n",
        "      - {data: tiny-triplets, splits: [val]}\n" * 3,
        ["two_afc"],
    ),
    "unknown split": ("splits: [val, test]", "splits: [val, exam]", ["two_afc", "'exam'"]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("data", "models"):
        shutil.copytree(ROOT / "specs" / name, tmp_path / name)
    return tmp_path


def _write(folder: Path, old: str, new: str) -> Path:
    text = (ROOT / "specs" / "demo-tiny.yaml").read_text()
    assert old in text, f"the shipped spec no longer holds {old!r}"
    path = folder / "broken.yaml"
    path.write_text(text.replace(old, new, 1) if old != "epochs: 4" else text.replace("epochs: 4\n", new + "\n", 1))
    return path


def test_the_shipped_spec_is_valid(folder: Path) -> None:
    load(_write(folder, "name: demo-tiny", "name: demo-tiny"))


@pytest.mark.parametrize("case", BROKEN, ids=[name.replace(" ", "-") for name in BROKEN])
def test_a_broken_spec_is_told_where_and_what(folder: Path, case: str) -> None:
    old, new, wanted = BROKEN[case]
    path = _write(folder, old, new)
    with pytest.raises(RequestError) as caught:
        load(path)
    message = str(caught.value)
    assert caught.value.exit_status == 2
    assert "broken.yaml:" in message
    for part in wanted:
        assert part in message, message


def test_the_line_is_the_field_s_own(folder: Path) -> None:
    path = _write(folder, "lr: 1e-3", "lr: fast")
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "lr: fast" in text)
    with pytest.raises(RequestError, match=rf"broken\.yaml:{line}, science\.initialize\.optimizer\.lr"):
        load(path)


def test_every_error_is_told_at_once(folder: Path) -> None:
    path = _write(folder, "  mode: exact", "  mode: exakt")
    path.write_text(path.read_text().replace("device: cpu", "device: tpu"))
    with pytest.raises(RequestError) as caught:
        load(path)
    assert "exakt" in str(caught.value) and "tpu" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"- 1\n- 2\n", b"just text", b"a: &a [*a]", b"[" * 5000, b"\x00"]
)
def test_files_that_are_no_spec(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(RequestError):
        load(path)


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(RequestError, match="too large"):
        load(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(RequestError):
        load(tmp_path)


def test_the_command_exits_2_without_a_traceback(folder: Path) -> None:
    path = _write(folder, "mode: exact", "mode: exakt")
    done = subprocess.run(
        [sys.executable, "-m", "pi_repro", "validate", str(path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean 'exact'" in done.stderr
    assert "Traceback" not in done.stderr


_TEXT = (ROOT / "specs" / "demo-tiny.yaml").read_text()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), junk=st.text(max_size=12))
def test_a_mangled_spec_never_escapes_as_anything_else(folder: Path, seed: int, junk: str) -> None:
    dice = random.Random(seed)
    lines = _TEXT.splitlines()
    for _ in range(dice.randint(1, 3)):
        number = dice.randrange(len(lines))
        choice = dice.randrange(4)
        if choice == 0:
            del lines[number]
        elif choice == 1:
            lines.insert(number, lines[dice.randrange(len(lines))])
        elif choice == 2:
            cut = dice.randint(0, len(lines[number]))
            lines[number] = lines[number][:cut] + junk
        else:
            lines[number] = lines[number].replace(":", "", 1)
    path = folder / "mangled.yaml"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    try:
        load(path)
    except PireproError as error:
        assert str(error)
