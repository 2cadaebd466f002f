"""The batch script of a job array whose tasks make a dataset's shards: what each host does around its task.

Rule: a request to end reaches the task as USR2, and whole parts are kept; where its time limit is near, SLURM is asked
to start the task again. How a task ended stands in <folder>/<job>_<task>.json, which comes last. Every value is quoted.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from pi_repro.launch import container
from pi_repro.launch.cluster import Cluster
from pi_repro.launch.places import Places
from pi_repro.launch.slurm.runner import process_command
from pi_repro.launch.slurm.script import PREPARE, WAIT
from pi_repro.provenance.determinism_env import environment
from pi_repro.spec import supplied
from pi_repro.spec.card import Card


def script(card: Card, folder: Path, tasks: int, cluster: Cluster, places: Places) -> str:
    """The script of an array, less the lines that tell SLURM what it needs.

    Args:
        card: of the dataset.
        folder: of the array's records.
        tasks: how many it has.
        cluster: where.
        places: the site's folders.
    """
    site = cluster.site
    image = container.image_of(site.runtime, places.workspace)
    moved = {
        "PIREPRO_SCRATCH": places.scratch,
        "PIREPRO_STORE": places.store,
        "PIREPRO_DOWNLOADS": places.downloads,
        "PIREPRO_DATA_ROOT": places.data_root,
    }
    folders = {key: path for key, path in moved.items() if path is not None}
    variables = environment({}, "exact", 1) | supplied.variables()
    variables |= {key: str(path) for key, path in folders.items()}
    binds = [places.workspace, *folders.values(), *supplied.copies().values()]
    command = process_command(
        site,
        image,
        ["pi_repro", "data", "share", card.name, "--of", str(tasks)],
        variables=variables,
        binds=binds,
        workdir=places.workspace,
        gpus=False,
    )
    prologue = image.prologue(places.workspace) if image else ()
    srun = [
        "srun",
        "--ntasks=1",
        f"--cpus-per-task={site.cpus_per_process}",
        "--export=ALL",
        "--input=none",
        "--unbuffered",
        *command,
    ]
    return "\n".join(
        [
            "set -euo pipefail",
            f"folder={shlex.quote(str(folder))}",
            f"requeues={site.requeues}",
            f"modules=({shlex.join(site.modules)})",
            f"prologue=({shlex.join(prologue)})",
            f"srun=({shlex.join(srun)})",
            _BEGIN,
            PREPARE,
            WAIT,
            _BODY,
        ]
    )


_BEGIN = r"""
me="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
again= rang= child=

say() { # level, text
  printf '%(%Y-%m-%d %H:%M:%S)T %s %s\n' -1 "$1" "$2"
}

finish() { # status: say how it ended, for whoever waits, and end
  printf '{"status": %d}\n' "$1" >"$folder/.$me.json"
  mv -f -- "$folder/.$me.json" "$folder/$me.json"
  exit "$1"
}

stop() { # 1 where it is to go on later: have the task end, whole parts are kept
  again=$1 rang=1
  if [ -n "$child" ]; then kill -USR2 "$child" 2>/dev/null || true; fi
}
trap 'stop 1' USR2
trap 'stop ""' TERM # of scancel; whoever preempts a job starts it again himself
say I "task $SLURM_ARRAY_TASK_ID begins on ${SLURMD_NODENAME:-$(hostname -s)}, restart ${SLURM_RESTART_COUNT:-0}"
"""

_BODY = r"""
"${srun[@]}" --task "$SLURM_ARRAY_TASK_ID" &
child=$!
# Asked while the host was prepared: nobody told it, and at once it might not hear yet.
if [ -n "$rang" ]; then (sleep 1; kill -USR2 "$child" 2>/dev/null || true) & fi
wait_for "$child"
# Its time was up: it goes on when SLURM starts it again.
if [ -n "$again" ] && [ "$status" != 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$requeues" ]; then
  say I "its time is up, whole parts are kept; requeued"
  trap '' USR2 TERM
  if scontrol requeue "$me"; then
    trap - TERM
    exec sleep 3600
  fi
fi
finish "$status"
"""
