"""Commands about clusters: describe one, choose it, look at it."""

from __future__ import annotations

from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(metavar="NAME", help="A file slurm/sites/NAME.yaml.", show_default=False)]

app = typer.Typer(name="site", no_args_is_help=True, help="Clusters: describe one, choose it, look at it.")


@app.command()
def init(
    name: Name, yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; take what is likely.")] = False
) -> None:
    """Describe the cluster of this login node. Looks around and asks some questions."""
    from pi_repro.launch import places
    from pi_repro.terminal import site

    site.init(places.find().workspace, name, yes)


@app.command()
def use(
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    off: Annotated[bool, typer.Option("--off", help="Run stages here again.")] = False,
) -> None:
    """Send stages to a cluster from now on. Those of `dvc repro` too."""
    from pi_repro.errors import RequestError
    from pi_repro.launch import places, record
    from pi_repro.launch.slurm import sites
    from pi_repro.terminal import show

    here = places.find()
    if (name is None) != off:
        raise RequestError("one of both: a site's name, or --off", allowed=", ".join(sites.names(here.workspace)))
    sites.choose(here.workspace, name)
    if name:
        record.lock_for_shared_folders(here)
    show.line(f"stages run on {name} from now on" if name else "stages run here from now on")


@app.command("list")
def list_() -> None:
    """List the sites of this workspace."""
    from pi_repro.launch import places
    from pi_repro.terminal import site

    site.listing(places.find().workspace)


@app.command()
def show(name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None) -> None:
    """Show every field of a site. Of the chosen one by default."""
    from pi_repro.launch import cluster, places
    from pi_repro.terminal import site

    site.show(cluster.asked(name, places.find(), "site show").site)
