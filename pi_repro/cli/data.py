"""Commands about datasets and suites: what there is, fetch it, check it, look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi_repro.cli.arguments import SiteName

Name = Annotated[str, typer.Argument(metavar="NAME", help="A card under specs/data/.", show_default=False)]

app = typer.Typer(
    name="data",
    no_args_is_help=True,
    help="Datasets and suites: list, fetch, check, look at them.",
    context_settings={"max_content_width": 110},
)


@app.command("list")
def list_() -> None:
    """List every dataset and suite, and what of it is here."""
    from pi_repro.launch import cluster, datasets
    from pi_repro.terminal import data

    data.listing(datasets.every(cluster.find()))


@app.command()
def fetch(
    name: Name,
    copies: Annotated[
        list[str] | None,
        typer.Option(
            "--from", metavar="[SOURCE=]PATH", help="A local copy: checked, and linked instead of downloaded."
        ),
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="As a SLURM job, where the site does not fetch here.")] = False,
    tasks: Annotated[
        int | None, typer.Option(min=1, help="Convert in so many array tasks first; with --slurm.")
    ] = None,
    site: SiteName = None,
) -> None:
    """Fetch a dataset or suite. Interrupt it at will and run it again; a second time downloads nothing."""
    from pi_repro.errors import RequestError
    from pi_repro.launch import cluster as clusters
    from pi_repro.launch import fetching, places
    from pi_repro.terminal import data, live, show

    if (tasks or site) and not slurm:
        raise RequestError(
            "this is for jobs in SLURM", where="--tasks" if tasks else "--site", given=tasks or site, todo="say --slurm"
        )
    here = places.find()
    cluster = clusters.asked(site, here) if slurm else None
    folders = cluster or clusters.chosen(here)
    with live.Live() as screen:
        ground = folders.places if folders else here
        found = fetching.fetch(name, copies or (), ground, screen.watcher, cluster, tasks, show.line)
    data.fetched(found)


@app.command()
def verify(name: Name) -> None:
    """Read every shard and compare it with the index. Names each one that is damaged."""
    from pi_repro.launch import cluster, datasets
    from pi_repro.terminal import data

    here = cluster.find()
    found = datasets.fetched(name, here)
    with data.Meter() as meter:
        verdict = datasets.verify(found, here, meter)
    if not data.verdict(name, verdict):
        raise typer.Exit(3)


@app.command()
def card(
    name: Name,
    json: Annotated[bool, typer.Option("--json", help="The card and what the fetch found, for programs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="A data card to publish.")] = False,
) -> None:
    """Show a card: sources, licences, attribution, warnings, and what the fetch found."""
    from pi_repro.launch import cluster, datacard, datasets
    from pi_repro.terminal import data, show

    found = datasets.named(name, cluster.find())
    if json:
        data.as_json(found)
    elif markdown:
        show.piece(datacard.markdown(found))
    else:
        data.card(found)


@app.command()
def sample(
    name: Name,
    seed: Annotated[int, typer.Option(min=0, help="Another one shows other samples.")] = 0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, max=200, help="Samples (of each set); a page's by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="PNG file to write; NAME-sample.png by default.")] = None,
) -> None:
    """Draw samples as one PNG: captions, triplets with the side that won, or a suite's classes."""
    from pi_repro.launch import cluster, datasets
    from pi_repro.terminal import show

    here = cluster.find()
    found = datasets.fetched(name, here)
    show.line(f"wrote {datasets.sample(found, here, seed, count, out or Path(f'{name}-sample.png'))}")


@app.command()
def overlap(
    left: Annotated[str, typer.Argument(metavar="TRAINED-ON", help="A fetched dataset.", show_default=False)],
    right: Annotated[str, typer.Argument(metavar="JUDGED-ON", help="Another, or a suite.", show_default=False)],
    within: Annotated[int, typer.Option(min=0, help="Bits of 64 in which two images may differ.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Folder to write; LEFT-RIGHT-overlap by default.")] = None,
) -> None:
    """List images of one dataset that are nearly those of another, by perceptual hash."""
    from pi_repro.launch import cluster, datasets
    from pi_repro.terminal import data

    here = cluster.find()
    trained, judged = datasets.fetched(left, here), datasets.fetched(right, here)
    folder = out or Path(f"{left}-{right}-overlap")
    with data.Meter(bytes_of=False) as meter:
        found = datasets.overlap(trained, judged, here, within, folder, meter)
    data.overlap(found, folder)


@app.command()
def share(
    name: Name,
    task: Annotated[int, typer.Option(min=0, help="This one, from 0.")],
    of: Annotated[int, typer.Option(min=1, help="How many there are.")],
) -> None:
    """Make one share of a dataset's shards and nothing else. What an array task of `fetch --tasks` does."""
    from pi_repro.launch import cluster, shares

    shares.share(name, task, of, cluster.find())


@app.command()
def stats(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, help="Samples to look into, of each set.")] = 10_000,
    everything: Annotated[bool, typer.Option("--all", help="Look into every sample.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Count: splits, classes, votes, formats, image sizes, caption lengths, failures."""
    from pi_repro.launch import cluster, datasets
    from pi_repro.terminal import data

    here = cluster.find()
    found = datasets.fetched(name, here)
    figures = datasets.stats(found, here, None if everything else limit)
    if json:
        data.stats_json(figures)
        return
    data.stats(figures)
    data.cautions(found)
