"""What people see: trees, tables and messages on a terminal, plain lines in a log. Computes nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pi_repro.plan import bill
from pi_repro.plan import cost as costs

if TYPE_CHECKING:
    from pi_repro.launch.collect import Garbage
    from pi_repro.launch.doctor import Check
    from pi_repro.launch.inspect import Explanation, State
    from pi_repro.launch.package import Packed
    from pi_repro.launch.places import Places
    from pi_repro.launch.writer import Driver
    from pi_repro.spec.loading import Loaded

_STYLES = {
    "published": "green",
    "in workspace": "green",
    "running": "cyan",
    "queued": "cyan",
    "stale": "yellow",
    "missing": "red",
    "waiting": "dim",
}


def console(*, error: bool = False) -> Console:
    """Of standard output, or of standard error."""
    # A log has no width; 110 columns keep its tables whole.
    stream = sys.stderr if error else sys.stdout
    # Text is shown as it stands: a licence may hold "[/terms]", which is no markup of ours.
    return Console(width=None if stream.isatty() else 110, highlight=False, markup=False, emoji=False, stderr=error)


def line(text: str) -> None:
    """One plain line."""
    sys.stdout.write(text + "\n")


def piece(text: str) -> None:
    """Part of somebody else's words, as it stands."""
    sys.stdout.write(text)
    sys.stdout.flush()


def detached(process: int, log: Path, places: Places) -> None:
    """That a driver goes on in the background, and how to look at it."""
    line(f"process {process} goes on in the background; what it says is in {log.relative_to(places.workspace)}")
    line("  pirepro attach           follow it, end as it ends (Ctrl-C leaves it alone)")
    line("  pirepro status           where every stage is")
    line("  pirepro logs STAGE -f    what one stage says")
    line("  pirepro cancel           stop it and its jobs; they save their state")


def drivers(found: Sequence[Driver]) -> None:
    """Who drives the workspace."""
    for driver in found:
        line(f"driven by {driver}" + (f", on {driver.site}" if driver.site else ""))


def cancelled(told: Mapping[str, str]) -> None:
    """What became of each job."""
    for name, what in told.items():
        line(f"{name}: {what}")
    if not told:
        line("nothing runs or waits")


def validated(loaded: Loaded) -> None:
    """A spec that is right, in a few lines."""
    science = loaded.experiment.science
    line(f"{loaded.path}: valid")
    line(f"  {loaded.experiment.title}")
    line(
        f"  arms:  {', '.join(science.arms)} (baseline {science.baseline}); seeds {', '.join(map(str, science.seeds))}"
    )
    line(f"  model: {science.model.name} on {science.device}; data: {', '.join(loaded.cards)}")


def plan(states: Sequence[State]) -> None:
    """The stage graph: a tree by kind, each stage with its state."""
    tree = Tree(Text("stages", style="bold"), guide_style="dim")
    for kind in dict.fromkeys(state.stage.kind for state in states):
        rows = [state for state in states if state.stage.kind == kind]
        found = [row.kind for row in rows]
        counts = ", ".join(f"{found.count(name)} {name}" for name in _STYLES if name in found)
        branch = tree.add(Text.assemble((kind, "bold"), f"  {counts}"))
        for row in rows:
            text = Text.assemble(f"{row.stage.key:<28} ", (row.kind, _STYLES[row.kind]))
            if row.bytes:
                text.append(f"  {bill.human_bytes(row.bytes)}", "dim")
            if row.note:
                text.append(f"  {row.note}", "dim")
            branch.add(text)
    console().print(tree)


def cost(loaded: Loaded) -> None:
    """GPU-hours, energy, disk and download of a spec, and of its one-GPU variant."""
    estimate = costs.estimate(loaded.experiment, loaded.cards, loaded.model["architecture"])
    table = Table(
        title=f"{loaded.experiment.name}: estimated cost of all stages",
        title_justify="left",
        box=None,
        show_header=False,
        padding=(0, 2, 0, 0),
    )
    for what, amount, remark in estimate.rows():
        table.add_row(what, Text(amount, justify="right"), Text(remark, style="dim"))
    console().print(table)
    resources = loaded.experiment.resources
    line(f"assumes {resources.device_watts:g} W a device, {resources.grid_g_per_kwh:g} g CO2e a kWh (from the spec)")
    for name, rate in resources.rates.items():
        line(f"  {name}: {rate.per_second:,.0f} a second and device ({rate.source})")


def status(states: Sequence[State], current: bool) -> None:
    """One line a stage that is not simply published, and a count of those that are."""
    good = [state for state in states if state.kind in ("published", "in workspace")]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for state in states:
        if state not in good:
            table.add_row(state.stage.name, Text(state.kind, style=_STYLES[state.kind]), Text(state.note, style="dim"))
    if table.row_count:
        console().print(table)
    line(f"{len(good)} of {len(states)} stages are published")
    if not current:
        line("params.json is not what the specs say: pirepro plan --write")


def dry_run(states: Sequence[State], places: Places) -> None:
    """What a run would do."""
    todo = [state for state in states if state.kind not in ("published", "in workspace")]
    for state in todo:
        verb = "attach to" if state.kind in ("running", "queued") else "run"
        line(f"would {verb} {state.stage.name}" + (f"  ({state.note})" if state.note else ""))
    line(f"{len(todo)} of {len(states)} stages would run, in {places.scratch}")


def explanation(found: Explanation) -> None:
    """Why a stage would run."""
    state = found.state
    line(f"{state.stage.name}: {state.kind}" + (f" ({state.note})" if state.note else ""))
    if state.fingerprint:
        line(f"  fingerprint {state.fingerprint}")
    if not found.recorded:
        line("  it was never recorded in this workspace")
    for change in [*found.settings, *found.inputs]:
        line(f"  {change.field}: {_value(change.old)} -> {_value(change.new)}")
    if found.recorded and not found.settings and not found.inputs:
        line("  nothing differs from what was recorded")


def _value(value: Any) -> str:
    text = str(value)
    return f"{text[:16]}..." if isinstance(value, str) and len(text) == 64 else text


def doctor(checks: Sequence[Check]) -> bool:
    """The findings of the doctor; True when nothing is wrong."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for check in checks:
        mark = (
            Text("ok", style="green")
            if check.good
            else Text("wrong", style="red")
            if check.needed
            else Text("note", style="yellow")
        )
        table.add_row(mark, check.what, check.found)
        if not check.good and check.todo:
            table.add_row("", "", Text(f"to do: {check.todo}", style="bold"))
    console().print(table)
    return all(check.good or not check.needed for check in checks)


def results(found: Mapping[str, Any]) -> None:
    """Metrics by set of one checkpoint."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("set", "n", "metrics"):
        table.add_column(name)
    for name, result in found.items():
        if isinstance(result, Mapping) and "metrics" in result:
            metrics = ", ".join(f"{key} {value:.4f}" for key, value in result["metrics"].items() if value is not None)
            table.add_row(name, f"{result['n']:,}", metrics)
    console().print(table)


def packed(found: Packed) -> None:
    """Where a crate is, and what its reader should know."""
    line(f"wrote {found.path}: {found.files:,} files, {found.bytes:,} bytes")
    if found.sha256:
        line(f"  sha256 {found.sha256}")
    if found.changed:
        some = ", ".join(found.changed[:6]) + (" ..." if len(found.changed) > 6 else "")
        line(f"  ran with uncommitted changes, as the crate says: {some}")


def garbage(items: Sequence[Garbage]) -> bool:
    """What could go; False when nothing can."""
    if not items:
        line("nothing to remove")
        return False
    for item in items:
        line(f"{bill.human_bytes(item.bytes):>10}  {item.reason}  {item.path}")
    line(f"{bill.human_bytes(sum(item.bytes for item in items))} in all")
    return True


def finished(loaded: Loaded, places: Places) -> None:
    """Where to look after a run."""
    folder = places.workspace / "reports" / loaded.experiment.name
    if (folder / "report.md").is_file():
        line("")
        line((folder / "report.md").read_text(encoding="utf-8").split("\n## ")[0].strip())
    if (folder / "index.html").is_file():
        line(f"\nLook at {(folder / 'index.html').relative_to(places.workspace)} (open it in a browser).")
