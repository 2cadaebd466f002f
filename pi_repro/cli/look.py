"""Commands that look and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi_repro.cli.arguments import SiteName, Spec, StageName


def validate(spec: Spec) -> None:
    """Check a spec and all that it names."""
    from pi_repro.launch import places, stages
    from pi_repro.plan import fitting
    from pi_repro.spec.loading import load
    from pi_repro.terminal import show

    loaded = load(stages.spec_path(spec, places.find()))
    fitting.check(loaded)
    show.validated(loaded)


def plan(
    spec: Annotated[
        Path | None, typer.Argument(help="A spec; all enabled ones when absent.", show_default=False)
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Bring params.json up to date with specs/enabled.yaml.")
    ] = False,
) -> None:
    """Show the stages of a spec, their state, and what they cost."""
    from pi_repro.launch import cluster, inspect, stages
    from pi_repro.plan import fitting, graph, params
    from pi_repro.spec.loading import load
    from pi_repro.terminal import data, show

    here = cluster.find()
    experiments = [load(stages.spec_path(spec, here))] if spec else params.load_enabled(here.workspace)
    for loaded in experiments:
        fitting.check(loaded)
    if write:
        changed = params.write(here.workspace, params.plan(here.workspace))
        show.line(f"params.json {'rewritten' if changed else 'was up to date'}")
    show.plan(inspect.states(graph.build(experiments), here))
    for loaded in experiments:
        show.cost(loaded)
        data.bill(loaded.cards.values())
        data.undeclared(loaded.cards.values())


def status(site: SiteName = None) -> None:
    """Say what is published, running, queued, stale or missing."""
    from pi_repro.launch import cluster as clusters
    from pi_repro.launch import inspect, places, writer
    from pi_repro.plan import params
    from pi_repro.terminal import show

    here = places.find()
    cluster = clusters.looked_at(site, here)
    ground, view = (cluster.places, cluster.view) if cluster else (here, None)
    current = params.plan(here.workspace)
    states = inspect.states(current, ground, view)
    show.status(states, params.is_current(here.workspace, current))
    if any(state.note == inspect.SILENT for state in states):
        show.line(f"{inspect.SILENT}: queued jobs are not shown")
    show.drivers(writer.drivers(here))


def explain(stage: StageName) -> None:
    """Say why a stage would run. The changed fields, old and new."""
    from pi_repro.launch import cluster, inspect
    from pi_repro.plan import params
    from pi_repro.terminal import show

    here = cluster.find()
    show.explanation(inspect.explain(params.plan(here.workspace), stage, here))


def doctor(
    site: Annotated[
        str | None, typer.Option("--site", metavar="NAME", help="Check this cluster instead, by a tiny job.")
    ] = None,
) -> None:
    """Check this machine, or a cluster by a tiny job. Says what to do about what is wrong."""
    from pi_repro.launch import doctor as checks
    from pi_repro.launch import places
    from pi_repro.terminal import show

    here = places.find()
    if site is None:
        found = checks.examine(here)
    else:
        from pi_repro.launch.slurm import examine

        found = examine.examine(site, here, show.line)
    if not show.doctor(found):
        raise typer.Exit(3)
