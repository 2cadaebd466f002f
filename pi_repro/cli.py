"""The door: Typer commands, nothing else. Each imports what it needs when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pi_repro import __version__
from pi_repro.errors import PireproError

app = typer.Typer(
    name="pirepro",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # The decorated help loads Markdown, a highlighter and a traceback printer: more than half of the start.
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
    help="Rebuild, check and vary the Perceptual-Initialization experiment, bit for bit.",
)

Spec = Annotated[Path, typer.Argument(help="A spec: specs/demo.yaml, or its name.", show_default=False)]
StageName = Annotated[str, typer.Argument(help="As `pirepro plan` lists it: pretrain@demo-pi-s0.", show_default=False)]


def main() -> None:
    """Run the command line; errors that a user can act on become one message and an exit status."""
    try:
        app()
    except PireproError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_status)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


@app.command()
def validate(spec: Spec) -> None:
    """Check a spec and all that it names."""
    from pi_repro.launch import places, stages
    from pi_repro.spec.loading import load
    from pi_repro.terminal import show

    show.validated(load(stages.spec_path(spec, places.find())))


@app.command()
def plan(
    spec: Annotated[
        Path | None, typer.Argument(help="A spec; all enabled ones when absent.", show_default=False)
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Bring params.json up to date with specs/enabled.yaml.")
    ] = False,
) -> None:
    """Show the stages of a spec, their state, and what they cost."""
    from pi_repro.launch import inspect, places, stages
    from pi_repro.plan import graph, params
    from pi_repro.spec.loading import load
    from pi_repro.terminal import show

    here = places.find()
    experiments = [load(stages.spec_path(spec, here))] if spec else params.load_enabled(here.workspace)
    if write:
        changed = params.write(here.workspace, params.plan(here.workspace))
        show.line(f"params.json {'rewritten' if changed else 'was up to date'}")
    show.plan(inspect.states(graph.build(experiments), here))
    for loaded in experiments:
        show.cost(loaded)


@app.command()
def status() -> None:
    """Say in a line each what is published, running, stale or missing."""
    from pi_repro.launch import inspect, places
    from pi_repro.plan import params
    from pi_repro.terminal import show

    here = places.find()
    current = params.plan(here.workspace)
    show.status(inspect.states(current, here), params.is_current(here.workspace, current))


@app.command()
def explain(stage: StageName) -> None:
    """Say why a stage would run: the changed fields, old and new."""
    from pi_repro.launch import inspect, places
    from pi_repro.plan import params
    from pi_repro.terminal import show

    here = places.find()
    show.explanation(inspect.explain(params.plan(here.workspace), stage, here))


@app.command()
def run(
    spec: Spec,
    until: Annotated[str | None, typer.Option(help="Stop after this stage, or this kind of stage.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, start nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run published stages again and compare the bits.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="After a failure let other branches finish.")
    ] = False,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Stages side by side; the spec's figure by default.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes (or GPUs) of one stage: a power of two; alters no bit.")
    ] = None,
) -> None:
    """Run an experiment: everything that is not published yet. Interrupt it at will and run it again."""
    from pi_repro.launch import inspect, places, stages
    from pi_repro.plan import graph
    from pi_repro.spec.loading import load
    from pi_repro.terminal import live, show

    here = places.find()
    loaded = load(stages.spec_path(spec, here))
    choice = stages.Choice(until=until, force=force, keep_going=keep_going, parallel=parallel, processes=processes)
    if dry_run:
        show.dry_run(inspect.states(stages.chosen(graph.build([loaded]), loaded, until), here), here)
        return
    with live.Live() as screen:
        stages.run(loaded, choice, here, screen.watcher)
    show.finished(loaded, here)


@app.command()
def stage(name: StageName) -> None:
    """Run one stage, or link what is published: the command of every stage in dvc.yaml."""
    from pi_repro.launch import places, stages
    from pi_repro.terminal import live

    with live.Live(plain=True) as screen:
        stages.run_stage(name, places.find(), screen.watcher)


@app.command()
def enable(spec: Spec) -> None:
    """Make `dvc repro` rebuild a spec's results too."""
    _change(spec, "enable")


@app.command()
def disable(spec: Spec) -> None:
    """Take a spec out of what `dvc repro` rebuilds."""
    _change(spec, "disable")


def _change(spec: Path, verb: str) -> None:
    from pi_repro.launch import places, stages
    from pi_repro.plan import params
    from pi_repro.spec.loading import load
    from pi_repro.terminal import show

    here = places.find()
    path = stages.spec_path(spec, here)
    if verb == "enable":
        load(path)
    changed = getattr(params, verb)(here.workspace, path)
    show.line(f"{path.name}: {verb}d; params.json rewritten" if changed else f"{path.name}: was {verb}d already")


@app.command()
def doctor() -> None:
    """Check this machine and environment, and say what to do about what is wrong."""
    from pi_repro.launch import doctor as checks
    from pi_repro.launch import places
    from pi_repro.terminal import show

    if not show.doctor(checks.examine(places.find())):
        raise typer.Exit(3)


@app.command()
def verify(
    stage: StageName,
    from_step: Annotated[
        int | None, typer.Option(min=0, help="Begin a training after this update: 0, or a published state's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates to compute; all that are left by default.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder to compute in, which then stays.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes to compute with, a power of two; the spec's by default.")
    ] = None,
) -> None:
    """Compute a recorded stage again in a clean place and compare the bits."""
    from pi_repro.launch import places
    from pi_repro.launch import verify as verifying
    from pi_repro.terminal import live, verdict

    with live.Live() as screen:
        wish = verifying.Wish(stage, from_step, steps, keep, processes)
        found = verifying.verify(wish, places.find(), screen.watcher)
    if not verdict.show(found):
        raise typer.Exit(3)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help="A stage, or a folder of its outputs.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another.", show_default=False)],
) -> None:
    """Say where two executions part: settings, first update and tensor, environment."""
    from pi_repro.launch import comparison, places, recorded
    from pi_repro.terminal import verdict

    here = places.find()
    found = comparison.compare(recorded.named(a, here), recorded.named(b, here), f"{a} and {b}")
    if not verdict.show(found):
        raise typer.Exit(3)


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(help="Folder of a trained stage: artifacts/demo/pi-s0/pretrain.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write.")],
    epoch: Annotated[int | None, typer.Option(help="A kept epoch; the last by default.")] = None,
) -> None:
    """Write weights that open_clip loads, with a model card."""
    from pi_repro.launch import export as exporting
    from pi_repro.launch import places
    from pi_repro.terminal import show

    show.line(f"wrote {exporting.export(weights, destination, epoch, places.find())}")


@app.command()
def package(
    spec: Spec,
    destination: Annotated[
        Path | None, typer.Argument(help="A folder, or a file ending in .zip; NAME-crate.zip by default.")
    ] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="For double-blind review: refuse whatever names somebody.")
    ] = False,
    weights: Annotated[bool, typer.Option("--weights", help="Pack weights and full states too.")] = False,
) -> None:
    """Export a complete experiment as an RO-Crate: recipe, provenance, results, report."""
    from pi_repro.launch import package as packaging
    from pi_repro.launch import places, stages
    from pi_repro.spec.loading import load
    from pi_repro.terminal import show

    here = places.find()
    loaded = load(stages.spec_path(spec, here))
    show.packed(packaging.package(loaded, destination, here, anonymous=anonymous, weights=weights))


@app.command()
def evaluate(
    weights: Annotated[str, typer.Option(help="A weights file, or open_clip:NAME/TAG.")],
    suite: Annotated[str, typer.Option(help="A fetched suite: demo-suite, or a folder.")],
    model: Annotated[
        str | None, typer.Option(help="open_clip's name of the model, where the file does not say.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the results as JSON.")] = None,
) -> None:
    """Judge any checkpoint on a suite."""
    from pi_repro.launch import foreign, places
    from pi_repro.terminal import show

    show.results(foreign.evaluate(weights, suite, model, output, places.find()))


@app.command()
def gc(
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Find what is damaged instead (reads the whole store).")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Remove scratch and published outputs that no enabled spec asks for."""
    from pi_repro.launch import collect, inspect, places, stages
    from pi_repro.plan import params
    from pi_repro.terminal import show

    here = places.find()
    with stages.only_driver(here):
        if damaged:
            items = collect.damaged(here)
        else:
            items = collect.garbage(here, inspect.fingerprints(params.plan(here.workspace), here))
        if show.garbage(items) and (yes or typer.confirm("Remove them?")):
            show.line(f"freed {collect.remove(items):,} bytes")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pirepro {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None: ...
