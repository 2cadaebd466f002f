"""A dataset's shards made by the tasks of one job array, and waiting for them.

Rule: an array only saves time. Its tasks make parts in the data root, each part by one task at a time, so an array that
is repeated, killed or run beside another harms nothing, and the stage that comes after makes whatever is
missing. While an array of this dataset lives, a further command waits for that one and submits none.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pi_repro.errors import Interrupted, StateError
from pi_repro.launch import cluster as clusters
from pi_repro.launch import datasets, progress, shares
from pi_repro.launch.cluster import Cluster
from pi_repro.launch.places import Places
from pi_repro.launch.slurm import arrays, submission
from pi_repro.launch.slurm.arrays import Array, Task
from pi_repro.launch.slurm.arrayscript import script
from pi_repro.launch.slurm.submission import Ask, Later
from pi_repro.spec.card import Card

#: Seconds: between two lines that differ in numbers alone; until a job that was just submitted must be in the queue,
#: and one that is in it no more must have said how it ended; between two tries to submit.
_SAY_S, _GONE_S, _LATER_S = 10.0, 20.0, 15.0
#: Failed tasks that a message shows, and how much of each.
_SHOWN, _WORDS = 3, 300


def convert(card: Card, tasks: int, cluster: Cluster, places: Places, say: Callable[[str], None]) -> None:
    """Make a dataset's shards by an array of jobs, and wait for it.

    Args:
        card: of the dataset.
        tasks: how many jobs; SLURM runs as many at once as the site allows.
        cluster: where.
        places: the site's folders.
        say: told how far it is, in lines.

    Raises:
        RequestError: the dataset can't be made in shares, SLURM refuses the array, or the code is not its commit.
        StateError: tasks failed, named with their logs; or there is no SLURM here.
        Interrupted: after Ctrl-C; the array goes on, and the same command waits for it again.
    """
    shares.of_card(card)
    cluster.runner()  # SLURM is here, and the image is the right one
    name = shares.identity(card, places)
    folder = places.scratch / name
    array = arrays.living(folder)
    if array is None:
        clusters.refuse_changed_code(places)
    clusters.remember(cluster, places)  # for whoever cancels it
    if array is not None:
        say(f"array job {array.job} of {array.tasks} tasks is at work already: waiting for it")
    else:
        if "fetch" in cluster.site.here:
            say(f"the site {cluster.name} fetches on this host, because nodes may have no internet; the array tries it")
        array = _submit(card, name, folder, tasks, cluster, places, say)
        say(f"array job {array.job} of {tasks} tasks submitted")
    try:
        _wait(array, cluster.site.poll_s, say)
    except KeyboardInterrupt:
        raise Interrupted(
            f"array job {array.job} goes on without this command",
            where=f"dataset {card.name}",
            todo="the same command waits for it again; to end it: pirepro cancel",
        ) from None
    _refuse_failures(array, card)


def _submit(
    card: Card, name: str, folder: Path, tasks: int, cluster: Cluster, places: Places, say: Callable[[str], None]
) -> Array:
    (stage,) = datasets.plan_of(card).stages
    # Beforehand, so that whoever finds the array knows whose it is and how many tasks it has.
    arrays.note(folder, stage.name, None, tasks)
    site = cluster.site
    ask = Ask(
        name=name,
        comment=f"pirepro share {card.name}",
        output=folder / "slurm-%A_%a.txt",
        minutes=site.minutes["fetch"],
        cpus=site.cpus_per_process,
        memory_gb=site.memory_per_process_gb,
        workdir=places.workspace,
        array=f"0-{tasks - 1}%{min(tasks, site.max_jobs)}",
    )
    text = script(card, folder, tasks, cluster, places)
    while True:
        try:
            job = submission.submit(folder / "attempts", site, ask, text)
            break
        except Later as error:
            say(f"SLURM takes no jobs now: {error}")
            time.sleep(_LATER_S)
            array = arrays.living(folder)  # it may have taken this one
            if array is not None:
                return array
    arrays.note(folder, stage.name, job, tasks)
    return Array(folder, job, tasks)


def _wait(array: Array, poll_s: float, say: Callable[[str], None]) -> None:
    """Until every task has said how it ended, or SLURM has none of them any more."""
    shown, said_at, gone_since = "", 0.0, time.monotonic()
    while len(ended := array.ended()) < array.tasks:
        found = arrays.tasks([array.folder.name])
        living = [task for task in found or () if task.job == array.job and task.lives]
        now = time.monotonic()
        if found is None or living:
            gone_since = now
        elif now > gone_since + _GONE_S + poll_s:
            return
        text = _told(array, ended, living, found is None)
        # Numbers of shards change often, the rest does not.
        if text != shown and (now > said_at + _SAY_S or _plain(text) != _plain(shown)):
            say(text)
            shown, said_at = text, now
        time.sleep(max(0.2, poll_s))
    say(_told(array, ended, [], False))


def _told(array: Array, ended: dict[int, int], living: Sequence[Task], silent: bool) -> str:
    """A line about an array."""
    states = [found for task in range(array.tasks) if (found := progress.read(shares.task_folder(array.folder, task)))]
    of_shards = [state for state in states if state.unit == "shards"]
    done, total = sum(state.done for state in of_shards), sum(state.total for state in of_shards)
    about = "" if len(of_shards) == array.tasks else f" of the {len(of_shards)} tasks that count theirs"
    kinds = Counter(task.state.lower() for task in living)
    kinds["ended"] = len(ended)
    waits = sorted({task.reason for task in living if task.state == "PENDING"} - {"None", ""})
    tasks = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()) if count)
    reasons = f" ({', '.join(waits)})" if waits else ""
    quiet = "; SLURM does not answer" if silent else ""
    return f"array job {array.job}: {done} of {total} shards whole{about}; tasks: {tasks or 'none yet'}{reasons}{quiet}"


def _plain(text: str) -> str:
    return re.sub(r"\d+ of \d+ shards", "", text)


def _refuse_failures(array: Array, card: Card) -> None:
    """Stop where a task failed, and say of which one which log to read."""
    ended = array.ended()
    failed = [task for task in range(array.tasks) if ended.get(task) != 0]
    if not failed:
        return
    seen = {task.index: task.state.lower() for task in arrays.tasks([array.folder.name]) or () if task.job == array.job}
    told = []
    for task in failed[:_SHOWN]:
        how = f"exit status {ended[task]}" if task in ended else seen.get(task, "was lost")
        told.append(f"task {task}: {how}; {_last_words(array.output(task))}")
    more = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    raise StateError(
        f"{len(failed)} of {array.tasks} array tasks failed; what the others made is kept",
        where=f"dataset {card.name}, array job {array.job}",
        given="\n           ".join(told) + more,
        todo=f"read {array.output(failed[0])}; the same command makes what is missing",
    )


def _last_words(path: Path) -> str:
    """The error that a task's log ends with."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
    except OSError:
        return "it left no log"
    kept = [line.strip() for line in lines if line.strip() and not line.startswith(("srun: ", "slurmstepd: "))]
    return " ".join(kept[-4:])[-_WORDS:] or "it printed nothing"
