"""Fetching one dataset: the stage of its card, run by the same driver as everything else.

Rule: what was fetched is listed in specs/enabled.yaml unless an experiment there names it, so that DVC and
`pirepro gc` know it. A set whose shards are gone or cut is made again though its index was published.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pi_repro.errors import RequestError, StateError
from pi_repro.plan import graph, params
from pi_repro.provenance.determinism_env import cores
from pi_repro.spec import supplied
from pi_repro.spec.card import Card

from . import datasets, requirements, stages, writer
from .cluster import Cluster
from .datasets import Dataset
from .driver import Watcher
from .places import Places


def fetch(
    name: str,
    copies: Sequence[str],
    places: Places,
    watcher: Watcher,
    cluster: Cluster | None = None,
    tasks: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """Fetch a dataset or suite, or find that it is here.

    Args:
        name: of its card.
        copies: local copies to take instead of downloading, each "SOURCE=PATH", or "PATH" where that is plain.
        tasks: array tasks that convert its parts on the cluster beforehand.
        say: told what the array does.

    Raises:
        RequestError: no such card; a copy of a source that it has not.
        StateError: something is missing here, all of it named; or what came is wrong.
        Interrupted: after Ctrl-C; the same command goes on.
    """
    with writer.driving(places, "run", cluster.name if cluster else None) as own:
        wanted = datasets.named(name, places)
        if given := local_copies(copies, wanted.card):
            known = {source: str(path) for source, path in supplied.copies().items()}
            os.environ[supplied.FROM] = json.dumps({**known, **given}, sort_keys=True)
        again = wanted.state.kind in ("published", "in workspace") and not _is_whole(wanted, places)
        complete = wanted.state.kind == "published" and not again
        if not complete and (missing := requirements.check_data(wanted.card, places, site=_site(cluster))):
            raise requirements.data_refusal(missing, name)
        if tasks and cluster and not complete:
            from .slurm import sharding

            sharding.convert(wanted.card, tasks, cluster, places, say)
        resources = graph.FETCHING.model_copy(update={"workers": cores()})
        ready = stages.Prepared(datasets.plan_of(wanted.card, resources), stages.runner_of(cluster, complete), 1)
        listed = wanted.enabled or not params.is_card(places.workspace, wanted.path)
        choice = stages.Choice(force=again)
        stages.drive(ready, None if listed else wanted.path, choice, places, watcher, own, cluster)
    return datasets.named(name, places)


def local_copies(given: Sequence[str], card: Card) -> dict[str, str]:
    """Source -> absolute path of its local copy.

    "PATH" alone is for a card of one source, or a folder that holds a folder or file for some of them by name.

    Raises:
        RequestError: no such source or path, or it is not clear whose copy it is.
    """
    names = [source.name for source in card.sources]
    found: dict[str, str] = {}
    for text in given:
        source, equals, path = text.partition("=")
        named = bool(equals) and not Path(text).exists()
        place = Path(path if named else text).expanduser().absolute()
        if not place.exists():
            raise RequestError("no such file or folder", where="--from", given=str(place))
        if named and source not in names:
            raise RequestError("no such source", where="--from", given=source, allowed=", ".join(names))
        if named or len(names) == 1:
            found[source if named else names[0]] = str(place)
            continue
        inside = {name: str(place / name) for name in names if (place / name).exists()}
        if not inside:
            raise RequestError(
                f"{card.name} has {len(names)} sources, and this folder holds none by its name",
                where="--from",
                given=str(place),
                allowed=", ".join(names),
                todo="--from SOURCE=PATH, once for each",
            )
        found |= inside
    return found


def _is_whole(dataset: Dataset, places: Places) -> bool:
    """Whether every shard is there and as long as the index says; those of a workspace come from the store."""
    if dataset.card.location == "workspace":
        return True
    if not dataset.here:
        return False
    from pi_repro.data.shards import Shards

    try:
        for folder in datasets.sets_of(dataset).values():
            shards = Shards.open(folder, places.data_root)
            shards.verify(contents=False)
            shards.close()
    except StateError:
        return False
    return True


def _site(cluster: Cluster | None) -> str | None:
    return cluster.name if cluster else None
