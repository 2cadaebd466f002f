"""Commands that keep a workspace in order: what `dvc repro` rebuilds, and what can go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pi_repro.cli.arguments import SiteName, Spec


def enable(spec: Spec) -> None:
    """Make `dvc repro` rebuild a spec's results too, or a card's data."""
    _change(spec, "enable")


def disable(spec: Spec) -> None:
    """Take a spec out of what `dvc repro` rebuilds."""
    _change(spec, "disable")


def gc(
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Find what is damaged instead (reads the whole store).")
    ] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Take from a store outside the workspace what others may need, too.")
    ] = False,
    site: SiteName = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Remove this workspace's scratch, and published outputs that no enabled spec asks for."""
    from pi_repro.launch import cluster as clusters
    from pi_repro.launch import collect, inspect, places, writer
    from pi_repro.plan import params
    from pi_repro.terminal import show

    own = places.find()
    cluster = clusters.looked_at(site, own)
    # What ran on this machine lies in the workspace's own folders.
    grounds = list(dict.fromkeys([own, cluster.places if cluster else own]))
    with writer.driving(own, "gc"):
        if damaged:
            found = [item for ground in grounds for item in collect.damaged(ground)]
        else:
            plan, view = params.plan(own.workspace), cluster.view if cluster else None
            needed = {name for ground in grounds for name in inspect.fingerprints(plan, ground)}
            found = [item for ground in grounds for item in collect.garbage(ground, needed, view, shared=shared)]
            for store in {ground.store for ground in grounds if not shared and not collect.is_own(ground)}:
                show.line(f"left alone, as others may need what is in it: {store} (--shared looks there, too)")
        items = list({item.path: item for item in found}.values())
        if show.garbage(items) and (yes or typer.confirm("Remove them?")):
            show.line(f"freed {collect.remove(items):,} bytes")


def _change(spec: Path, verb: str) -> None:
    from pi_repro.launch import places, stages
    from pi_repro.plan import params
    from pi_repro.spec.loading import load, load_card
    from pi_repro.terminal import show

    here = places.find()
    path = stages.spec_path(spec, here)
    if verb == "enable":
        (load_card if params.is_card(here.workspace, path) else load)(path)
    elif not path.is_file():
        # A file that is gone can still be taken off the list; a name that is on none is a slip.
        params.refuse_unlisted(here.workspace, path)
    changed = getattr(params, verb)(here.workspace, path)
    show.line(f"{path.name}: {verb}d; params.json rewritten" if changed else f"{path.name}: was {verb}d already")
