"""The batch script of a job: what the host does around its processes.

Rule: the request to save (before the time limit, at preemption, of `pirepro cancel`) reaches the processes
as USR2; when they saved, this script has SLURM start the job again. The script knows nothing of the stage,
and every value in it is quoted.

It ends with 0 when the stage is published, 130 when stopped for good, 75 when another attempt has it,
and with the stage's own status otherwise; ended.json keeps that for clusters without accounting.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: What a job's log says when one of its processes vanished, which is no fault of the stage.
LOST = "process.* was lost"

#: Deaths with the same status and nothing new in between, after which a job is not started again.
ALIKE = 3


@dataclass(frozen=True)
class Script:
    """What varies.

    Attributes:
        attempt: number of the submission.
        scratch: the job's folder.
        published: the file whose existence says that the stage is published.
        command: words that run one process of the job; srun's options may come first (pyxis has some).
        tasks: processes.
        cpus: CPUs of each.
        requeues: times that it may be started again.
        modules: for `module load`.
        prologue: words of a command that checks the image on the host; empty without one.
    """

    attempt: int
    scratch: Path
    published: Path
    command: Sequence[str]
    tasks: int
    cpus: int
    requeues: int
    modules: Sequence[str] = ()
    prologue: Sequence[str] = ()

    def text(self) -> str:
        """The script, less the lines that tell SLURM what the job needs."""
        values: Mapping[str, object] = {
            "attempt": self.attempt,
            "folder": self.scratch,
            "published": self.published,
            "requeues": self.requeues,
            "alike": ALIKE,
            "lost": LOST,
        }
        srun = ["srun", f"--ntasks={self.tasks}", f"--cpus-per-task={self.cpus}", *_SRUN, *self.command]
        return "\n".join(
            [
                "set -euo pipefail",
                *(f"{name}={shlex.quote(str(value))}" for name, value in values.items()),
                f"modules=({shlex.join(self.modules)})",
                f"prologue=({shlex.join(self.prologue)})",
                f"srun=({shlex.join(srun)})",
                WAIT,
                _BODY,
            ]
        )


_SRUN = ("--kill-on-bad-exit=1", "--export=ALL", "--input=none", "--unbuffered")

#: What a host does before its processes; `say LEVEL TEXT` and `finish STATUS` are the script's.
PREPARE = r"""if [ "${#modules[@]}" -gt 0 ]; then
  set +eu
  for file in /etc/profile.d/lmod.sh /etc/profile.d/z00_lmod.sh /etc/profile.d/modules.sh; do
    if ! type module >/dev/null 2>&1 && [ -r "$file" ]; then . "$file"; fi
  done
  for name in "${modules[@]}"; do
    module load "$name" || { say E "module load $name failed"; finish 3; }
  done
  set -eu
fi
if [ "${#prologue[@]}" -gt 0 ]; then
  said=$("${prologue[@]}" 2>&1) || { say E "$said"; finish 3; }
fi
"""

#: How it waits: a request interrupts bash's own wait, and sets rang.
WAIT = r"""wait_for() { # process: its status, however often a request interrupts the wait
  local last=127 now
  while :; do
    rang= now=0
    wait "$1" || now=$?
    if [ "$now" = 127 ]; then now=$last; break; fi # it was waited for before
    last=$now
    if [ -z "$rang" ]; then break; fi
  done
  status=$now
}
"""

_BODY = (
    r"""
restarts=${SLURM_RESTART_COUNT:-0}
node=${SLURMD_NODENAME:-$(hostname -s)}
asked= rang= child=

say() { # level, text: a line in the job's log, which people read
  printf '%(%Y-%m-%d %H:%M:%S)T %s slurm job %s: %s\n' -1 "$1" "$SLURM_JOB_ID" "$2" >>"$folder/log.txt"
}

finish() { # status, deaths alike, 1 where no other try would help: say how it ended, for whoever waits, and end
  local aside="$folder/.ended.$SLURM_JOB_ID"
  {
    printf '{"attempt": %d, "job": "%s", "restarts": %d, ' "$attempt" "$SLURM_JOB_ID" "$restarts"
    printf '"status": %d, "alike": %d, "final": %d, ' "$1" "${2:-0}" "${3:-0}"
    printf '"node": "%s", "time": %(%s)T}\n' "$node" -1
  } >"$aside"
  mv -f -- "$aside" "$folder/ended.json"
  exit "$1"
}

again() { # status, why: have SLURM start this job once more, and wait to be ended by it
  if [ "$restarts" -ge "$requeues" ]; then
    say E "$2; not started again: the site allows $requeues requeues"
    finish "$1" 0 1
  fi
  if ! command -v scontrol >/dev/null; then
    say E "$2; this node has no scontrol to have it started again"
    finish "$1"
  fi
  say I "$2; requeued"
  trap '' USR2 TERM
  for _ in {1..30}; do
    if scontrol requeue "$SLURM_JOB_ID"; then
      trap - TERM
      exec sleep 3600
    fi
    sleep 10 # the controller may be restarting
  done
  say E "SLURM did not requeue it"
  finish "$1"
}

died() { # status, why: start it again, unless it dies at the same point every time
  local sign count
  sign="$1 $(cd "$folder/work" 2>/dev/null && find . -mindepth 1 -not -path '*/.*' | sort | cksum || true)"
  printf '%s\n' "$sign" >>"$folder/attempts/deaths.txt"
  count=$(tail -n "$alike" "$folder/attempts/deaths.txt" | grep -cxF -- "$sign" || true)
  if [ "$count" -ge "$alike" ]; then
    say E "$2, $count times at the same point"
    finish "$1" "$count" 1
  fi
  again "$1" "$2"
}

ask() { # a request to save: the processes do, and answer 130
  rang=1
  if [ -z "$asked" ]; then say I "asked to save"; fi
  asked=1
  if [ -n "$child" ]; then kill -USR2 "$child" 2>/dev/null || true; fi
}

watch() { # process: end an srun that waits for processes which are gone, as after the loss of a node's daemon
  local held= gone=0 now
  # Asked while it was being started: nobody told it, and at once it might not hear yet.
  if [ -n "$asked" ]; then sleep 1; kill -USR2 "$1" 2>/dev/null || true; fi
  while sleep "${held:-1}" && kill -0 "$1" 2>/dev/null; do
    now=0
    [ -e "$folder/lease.json" ] || continue
    flock --shared --nonblock --conflict-exit-code 75 "$folder/lease.json" true 2>/dev/null || now=$?
    case $now in
      75) held=20 gone=0 ;; # from now on every 20 s
      0) gone=$((gone + 1)) ;;
      *) return 0 ;; # no such locks here
    esac
    if [ -n "$held" ] && [ "$gone" -ge 6 ]; then
      say E "its processes are gone, but srun waits for them: it is ended"
      kill -KILL "$1" 2>/dev/null || true
      return 0
    fi
  done
}

trap ask USR2 TERM
echo "== attempt $attempt, restart $restarts, on $node =="
if [ -e "$published" ]; then finish 0; fi
newest=$(cd "$folder/attempts" && printf '%s\n' [0-9]*.json | sort -n | tail -n 1)
newest=${newest%.json}
if [ "$((10#$newest))" -gt "$attempt" ]; then exit 75; fi
if [ -e "$folder/cancelled" ]; then finish 130; fi
say I "begins on $node${SLURM_JOB_NUM_NODES:+ ($SLURM_JOB_NUM_NODES node(s))}, restart $restarts"

"""
    + PREPARE
    + r"""
# What another launcher said of its own processes.
unset RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT
for _ in {1..30}; do
  if [ -n "$asked" ]; then again 130 "asked to save before it began"; fi
  size=$(stat -c %s "$folder/log.txt")
  "${srun[@]}" &
  child=$!
  watch "$child" >/dev/null &
  watcher=$!
  wait_for "$child"
  child=
  kill "$watcher" 2>/dev/null || true
  # 75: another process has the lease; that of an attempt whose node died is freed in a while.
  if [ "$status" != 75 ] || [ -e "$published" ]; then break; fi
  sleep 10 &
  wait_for $!
  status=75
done

if [ -e "$published" ]; then finish 0; fi
# Ended before it could hear, or had yet to begin.
if [ -n "$asked" ] && { [ "$status" -gt 128 ] || [ "$status" = 75 ]; }; then status=130; fi
if [ "$status" = 130 ]; then
  if [ -e "$folder/cancelled" ]; then say I "stopped"; finish 130; fi
  again 130 "its state is saved"
fi
if [ "$status" -gt 128 ]; then died "$status" "killed by signal $((status - 128))"; fi
# grep reads all of it (no -q): tail would die of a closed pipe, and that would be the status.
if [ "$status" = 3 ] && tail -c +"$((size + 1))" "$folder/log.txt" | grep -- "$lost" >/dev/null; then
  died "$status" "one of its processes was lost"
fi
finish "$status"
"""
)
