"""Commands about what was published: check it again, compare it, take it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi_repro.cli.arguments import Spec


def verify(
    stage: Annotated[
        str,
        typer.Argument(
            help="A stage as `pirepro plan` lists it; with --statistical an experiment, too.", show_default=False
        ),
    ],
    from_step: Annotated[
        int | None, typer.Option(min=0, help="Begin a training after this update: 0, or a published state's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates to compute; all that are left by default.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder to compute in, which then stays.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes to compute with, a power of two; the spec's by default.")
    ] = None,
    statistical: Annotated[
        bool, typer.Option("--statistical", help="Compute nothing: hold the results here to recorded seeds.")
    ] = False,
    reference: Annotated[Path | None, typer.Option(help="With --statistical: the recorded seeds, a JSON file.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="With --statistical: write that file from the results here instead.")
    ] = None,
) -> None:
    """Compute a recorded stage again in a clean place and compare the bits; or compare its numbers by statistics."""
    if statistical or reference or record:
        exact = (from_step, steps, keep, processes)
        _statistically(stage, reference, record, statistical and not any(value is not None for value in exact))
        return
    from pi_repro.launch import cluster
    from pi_repro.launch import verify as verifying
    from pi_repro.terminal import live, verdict

    with live.Live() as screen:
        wish = verifying.Wish(stage, from_step, steps, keep, processes)
        found = verifying.verify(wish, cluster.find(), screen.watcher)
    if not verdict.show(found):
        raise typer.Exit(3)


def _statistically(name: str, reference: Path | None, record: Path | None, alone: bool) -> None:
    from pi_repro.errors import RequestError
    from pi_repro.launch import outcomes, places
    from pi_repro.terminal import comparison, show

    if not alone or (reference is None) == (record is None):
        raise RequestError(
            "--statistical goes with either --reference or --record, and with nothing that computes again",
            todo=f"pirepro verify {name} --statistical --reference FILE",
        )
    if record is not None:
        show.line(f"wrote {outcomes.record(name, record, places.find())}")
    elif reference is not None and not comparison.verified(outcomes.verify(name, reference, places.find())):
        raise typer.Exit(3)


def compare(
    a: Annotated[str, typer.Argument(help="EXPERIMENT/ARM, an arm, or an experiment.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another of the same kind.", show_default=False)],
) -> None:
    """Compare two arms, or the arms of two experiments. Every set with its interval, and the wins that count."""
    from pi_repro.launch import outcomes, places
    from pi_repro.terminal import comparison

    for found in outcomes.compare(a, b, places.find()):
        comparison.compared(found)


def diff(
    a: Annotated[str, typer.Argument(help="A stage, or a folder of its outputs.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another.", show_default=False)],
) -> None:
    """Say where two executions part: settings, first update and tensor, environment."""
    from pi_repro.launch import cluster, comparison, recorded
    from pi_repro.terminal import verdict

    here = cluster.find()
    found = comparison.compare(recorded.named(a, here), recorded.named(b, here), f"{a} and {b}")
    if not verdict.show(found):
        raise typer.Exit(3)


def export(
    weights: Annotated[Path, typer.Argument(help="Folder of a trained stage: artifacts/demo/pi-s0/pretrain.")],
    destination: Annotated[Path, typer.Argument(help="Folder to write.")],
    epoch: Annotated[int | None, typer.Option(help="A kept epoch; the last by default.")] = None,
) -> None:
    """Write weights that open_clip loads, with a model card."""
    from pi_repro.launch import cluster
    from pi_repro.launch import export as exporting
    from pi_repro.terminal import show

    show.line(f"wrote {exporting.export(weights, destination, epoch, cluster.find())}")


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
    from pi_repro.launch import cluster, stages
    from pi_repro.launch import package as packaging
    from pi_repro.spec.loading import load
    from pi_repro.terminal import show

    here = cluster.find()
    loaded = load(stages.spec_path(spec, here))
    show.packed(packaging.package(loaded, destination, here, anonymous=anonymous, weights=weights))


def evaluate(
    weights: Annotated[str, typer.Option(help="A weights file, or open_clip:NAME/TAG.")],
    suite: Annotated[str, typer.Option(help="A fetched suite: demo-suite, or a folder.")],
    model: Annotated[
        str | None, typer.Option(help="open_clip's name of the model, where the file does not say.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the results as JSON.")] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Judge only the sets of a published row (specs/published/), and compare: 0.1 points, or exit 3.",
        ),
    ] = None,
) -> None:
    """Judge any checkpoint on a suite."""
    from pi_repro.launch import cluster, foreign, published
    from pi_repro.terminal import golden, show

    row = published.read_row(against) if against else None
    found = foreign.evaluate(weights, suite, model, output, cluster.find(), row)
    show.results(found)
    if row is not None and not golden.show(published.compare(row, found), weights):
        raise typer.Exit(3)
