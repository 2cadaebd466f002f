"""Commands that run stages, and that watch and stop what runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from pi_repro.cli.arguments import SiteName, Spec, StageName


def run(
    spec: Spec,
    until: Annotated[str | None, typer.Option(help="Stop after this stage, or this kind of stage.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run and what stands against it, start nothing.")
    ] = False,
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
    slurm: Annotated[bool, typer.Option("--slurm", help="Every stage as a SLURM job.")] = False,
    site: SiteName = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Go on in the background; `pirepro attach` follows.")
    ] = False,
    dev: Annotated[
        bool, typer.Option("--dev", help="With uncommitted changes of the code too; provenance says so.")
    ] = False,
) -> None:
    """Run an experiment: everything that is not published yet. Interrupt it at will and run it again."""
    from pi_repro.errors import PireproError, RequestError
    from pi_repro.launch import background, inspect, places, stages
    from pi_repro.launch import cluster as clusters
    from pi_repro.plan import fitting, graph
    from pi_repro.provenance import capture
    from pi_repro.spec.loading import load
    from pi_repro.terminal import live, show

    if site and not slurm:
        raise RequestError("a site is for jobs in SLURM", where="--site", given=site, todo="say --slurm too")
    if dev:
        os.environ[capture.DEV] = "1"
    here = places.find()
    cluster = clusters.asked(site, here) if slurm else None
    # Without --slurm a chosen site still says where the folders are.
    folders = cluster or clusters.chosen(here)
    ground = folders.places if folders else here
    loaded = load(stages.spec_path(spec, here))
    if (until or "").partition("@")[0] != "fetch":  # fetching is how one finds out how much there is
        fitting.check(loaded)
    choice = stages.Choice(until=until, force=force, keep_going=keep_going, parallel=parallel, processes=processes)
    if dry_run:
        view = cluster.view if cluster else None
        show.dry_run(inspect.states(stages.chosen(graph.build([loaded]), loaded, until), ground, view), ground)
        try:
            stages.prepare(loaded, choice, ground, cluster)
        except PireproError:
            show.line("but it would be refused, as it is and here:")
            raise
    elif detach:
        stages.prepare(loaded, choice, ground, cluster)
        process = background.start([word for word in sys.argv[1:] if word != "--detach"], ground)
        show.detached(process, background.log(ground), ground)
    else:
        with live.Live() as screen:
            stages.run(loaded, choice, ground, screen.watcher, cluster)
        show.finished(loaded, ground)


def stage(name: StageName) -> None:
    """Run one stage, or link what is published. dvc.yaml calls this for every stage."""
    from pi_repro.launch import cluster as clusters
    from pi_repro.launch import places, stages
    from pi_repro.terminal import live

    here = places.find()
    cluster = clusters.chosen(here)
    with live.Live(plain=True) as screen:
        stages.run_stage(name, cluster.places if cluster else here, screen.watcher, cluster)


def attach() -> None:
    """Follow the driver that `run --detach` started. It ends with the driver's status."""
    from pi_repro.launch import background, places
    from pi_repro.terminal import show

    raise typer.Exit(background.attach(places.find(), show.piece))


def logs(
    stage: StageName,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the stage has ended.")] = False,
    site: SiteName = None,
) -> None:
    """Show what a stage's job says, or said. -f goes on until the stage has ended."""
    from pi_repro.launch import cluster as clusters
    from pi_repro.launch import logs as stage_logs
    from pi_repro.launch import places
    from pi_repro.plan import params
    from pi_repro.terminal import show

    here = places.find()
    cluster = clusters.looked_at(site, here)
    ground, plan = cluster.places if cluster else here, params.plan(here.workspace)
    if not follow:
        stage_logs.show(plan, stage, ground, show.piece)
        return
    try:
        stage_logs.follow(plan, stage, ground, cluster, show.piece)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def cancel(
    stages: Annotated[list[str] | None, typer.Argument(metavar="[STAGE]...", show_default=False)] = None,
    site: SiteName = None,
) -> None:
    """Stop stages after they saved their state. Without names: the driver, and all that it started."""
    from pi_repro.launch import cancel as cancelling
    from pi_repro.launch import cluster as clusters
    from pi_repro.launch import places
    from pi_repro.terminal import show

    here = places.find()
    show.cancelled(cancelling.cancel(stages or [], here, clusters.sent_to(site, here)))
