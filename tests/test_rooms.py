"""The house rules: which room imports which, and what a login node need not have."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1] / "pi_repro"

#: room -> rooms it may import; every room may import errors and files.
BELOW = {
    "spec": set(),
    "provenance": {"spec"},
    "plan": {"spec"},
    "data": {"spec", "stages", "provenance"},
    "training": {"spec", "data", "stages", "provenance"},
    "evaluation": {"spec", "data", "training", "stages", "provenance"},
    "analysis": {"spec", "stages", "data"},
    "stages": {"spec", "data", "training", "evaluation", "analysis", "provenance"},
    "launch": {"spec", "plan", "stages", "data", "provenance", "evaluation", "analysis"},
    "terminal": {"spec", "plan", "launch"},
    "cli": {"spec", "plan", "launch", "terminal", "evaluation", "provenance"},
}
FREE = {"errors", "files", "__version__"}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("pi_repro"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pi_repro.")}
        elif isinstance(node, ast.ImportFrom) and node.level > 1:
            found.add(f"relative import past its room in {path}")
    return found


def test_rooms_import_only_downward() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__", "errors", "files"):
            continue
        strangers = _imports(path) - BELOW[room] - FREE - {room}
        assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


def test_stages_and_what_they_use_meet_only_in_the_context() -> None:
    """data, training, evaluation and analysis know a stage's context and nothing else of that room."""
    for room in ("data", "training", "evaluation", "analysis"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pi_repro.stages"):
                    assert node.module == "pi_repro.stages.context", path


def test_the_door_and_the_planning_rooms_load_no_torch() -> None:
    code = (
        "import sys, pkgutil, importlib\n"
        "from pi_repro import cli, launch, plan, spec, terminal\n"
        "if 'submitit' in sys.modules: sys.exit('the door loads submitit')\n"
        "for room in (cli, spec, plan, launch, terminal):\n"
        "    for module in pkgutil.walk_packages(room.__path__, room.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "heavy = {'torch', 'open_clip', 'dvc', 'torchvision', 'scipy', 'matplotlib'}\n"
        "heavy &= {name.split('.')[0] for name in sys.modules}\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_is_fast() -> None:
    """Under 0.4 s of processor time: what a clock would read on a machine that does nothing else."""
    import resource
    import time

    best = 9.0
    for _ in range(4):
        before, at = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, "-m", "pi_repro", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best, spent, time.perf_counter() - at)
    assert best < 0.4


def test_modules_say_their_rule_and_stay_small() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} has no docstring"
        assert len(text.splitlines()) <= 320, f"{path.relative_to(ROOT)} is too long: two nouns?"
