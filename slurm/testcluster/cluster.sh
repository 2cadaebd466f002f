#!/usr/bin/env bash
# A private SLURM cluster on one machine: real daemons, virtual nodes, schedulable GPUs on null devices.
# Everything lives in one folder and on free ports; the system's own SLURM, munge and MariaDB
# are not touched.
set -euo pipefail

usage() {
  cat >&2 <<'TEXT'
cluster.sh install                 install the Debian packages that are missing, also a container's (root)
cluster.sh up DIR [--nodes N] [--gpus G] [--no-accounting] [--grace SECONDS]
cluster.sh env DIR                 print what `eval` needs to use it
cluster.sh status DIR              nodes, jobs and daemons
cluster.sh stop-node DIR N         end the daemon of node N; its jobs go on
cluster.sh kill-node DIR N         node N dies with everything that runs on it
cluster.sh start-node DIR N        start it again and return it to service
cluster.sh stop-ctld DIR [SIGNAL]  end the controller (TERM saves its state, KILL doesn't)
cluster.sh start-ctld DIR
cluster.sh down DIR                cancel all jobs, end all processes; logs stay
TEXT
  exit 2
}

die() { echo "cluster.sh: $*" >&2; exit 1; }

SLURM=(munged:munge mariadbd:mariadb-server-core slurmdbd:slurmdbd slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client)
CONTAINER=(ch-run:charliecloud-runtime mksquashfs:squashfs-tools buildah:buildah mmdebstrap:mmdebstrap podman:podman
  runc:runc)

missing() { # PROGRAM:PACKAGE...: the packages whose programs aren't there
  local pair
  for pair in "$@"; do
    command -v "${pair%:*}" >/dev/null || echo "${pair#*:}"
  done
}

install() {
  local wanted
  mapfile -t wanted < <(missing "${SLURM[@]}" "${CONTAINER[@]}")
  [ ${#wanted[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || die "missing: ${wanted[*]}. An administrator installs them: bash $0 install"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  apt-get -qq -o DPkg::Lock::Timeout=600 install -y --no-install-recommends "${wanted[@]}" >/dev/null
}

# ---- processes -----------------------------------------------------------------------------------------------------

pid_of() { # DAEMON: its pid, if the one in its pid file is alive and ours
  local pid
  pid=$(cat "run/$1.pid" 2>/dev/null) && grep -qzxF "SLURM_CONF=$SLURM_CONF" "/proc/$pid/environ" 2>/dev/null && echo "$pid"
}

alive() { readlink "/proc/$1/exe" >/dev/null; } # also false of one that ended and that nobody has waited for

stop() { # DAEMON [SIGNAL]: signal it, wait for its end
  local pid tries
  pid=$(pid_of "$1") || return 0
  kill "-${2:-TERM}" "$pid" 2>/dev/null || return 0
  for ((tries = 0; tries < 600; tries++)); do
    alive "$pid" || return 0
    sleep 0.05
  done
  die "$1 (process $pid) does not end"
}

await() { # WHAT COMMAND...: until the command succeeds, 3 min at most
  local what=$1 end=$((SECONDS + 180))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || die "$what did not come up; logs: $D/log"
    sleep 0.1
  done
}

running() { # [VARIABLE=VALUE]: pids of processes that were started with this cluster's SLURM_CONF (and this variable)
  grep -slzxF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ | xargs -r grep -slzxF -- "${1:-SLURM_CONF=$SLURM_CONF}" |
    cut -d/ -f3
}

steps() { # [N]: pids of slurmstepd of node N, or of all: they keep their node's log open, and survive its slurmd
  find /proc/[0-9]*/fd -lname "$D/log/slurmd.n${1:-*}.log" 2>/dev/null | cut -d/ -f3 | sort -u | while read -r pid; do
    grep -qx slurmstepd "/proc/$pid/comm" 2>/dev/null && echo "$pid"
  done || true
}

kill_all() { # COMMAND...: SIGKILL to every pid that it prints, until it prints none
  local pids
  for _ in {1..50}; do
    mapfile -t pids < <("$@")
    [ ${#pids[@]} -gt 0 ] || return 0
    kill -KILL "${pids[@]}" 2>/dev/null || true
    sleep 0.05
  done
  die "still running: ${pids[*]}"
}

tasks() { running "SLURMD_NODENAME=n$1"; }

kill_node() {
  touch "run/n$1.died"
  stop "slurmd.n$1" KILL
  kill_all steps "$1"
  kill_all tasks "$1"
}

# ---- daemons -------------------------------------------------------------------------------------------------------

start_ctld() {
  pid_of slurmctld >/dev/null && return
  slurmctld -f "$SLURM_CONF" >>log/start.log 2>&1
  await slurmctld ctld_up
}

ctld_up() { scontrol ping | grep -q UP; }

start_node() {
  local rebooted=()
  pid_of "slurmd.n$1" >/dev/null && return
  # A node that died says so, and SLURM ends its jobs; else it would go by the real machine's uptime.
  [ ! -e "run/n$1.died" ] || rebooted=(-b)
  slurmd -N "n$1" -f "$SLURM_CONF" "${rebooted[@]}" >>log/start.log 2>&1
  rm -f "run/n$1.died"
}

registered() { # N: when node N's daemon was started, as the controller knows it
  scontrol show node "n$1" | grep -o 'SlurmdStartTime=.*'
}

registered_since() { local now; now=$(registered "$1") && [ "$now" != "$2" ]; }

revive_node() {
  local before
  if ! pid_of slurmctld >/dev/null; then
    start_node "$1"
    return
  fi
  if ! pid_of "slurmd.n$1" >/dev/null; then
    before=$(registered "$1")
    start_node "$1"
    await "n$1" registered_since "$1" "$before"
  fi
  # It is down after a reboot, and drained after some failures; one that is neither refuses this.
  scontrol update NodeName="n$1" State=RESUME >>log/start.log 2>&1 || true
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_ports() { # COUNT: the first of so many free ports; below the range that the kernel gives to others
  local base port
  for _ in {1..200}; do
    base=$((20000 + RANDOM % 12000))
    for ((port = base; port < base + $1; port++)); do
      listening "$port" && continue 2
    done
    echo "$base"
    return
  done
  die "found no free ports"
}

start_accounting() {
  local user=() share=/usr/share/mysql
  [ "$ME" != root ] || user=(--user=root)
  # A tmpdir of its own: mariadbd begins by removing every #sql* file there, a starting neighbour's too.
  local options=(--no-defaults "${user[@]}" --datadir="$D/db" --tmpdir="$D/run"
    --innodb-data-file-path=ibdata1:8M:autoextend --innodb-log-file-size=8M)
  mkdir -p db/mysql
  { # what mariadb-install-db does, which needs further packages
    echo "use mysql;"
    cat $share/mysql_system_tables.sql $share/mysql_system_tables_data.sql
    printf '%s;\n' "flush privileges" "create database slurm" \
      "create user slurm@'127.0.0.1' identified by '$PASSWORD'" "grant all on slurm.* to slurm@'127.0.0.1'"
  } | mariadbd "${options[@]}" --bootstrap >>log/mariadbd.log 2>&1
  setsid mariadbd "${options[@]}" --socket="$D/run/mariadbd.socket" --pid-file="$D/run/mariadbd.pid" \
    --bind-address=127.0.0.1 --port=$((BASE + 1)) --skip-name-resolve >>log/mariadbd.log 2>&1 </dev/null &
  await mariadbd listening $((BASE + 1))
  slurmdbd >>log/start.log 2>&1
  await slurmdbd listening $((BASE + 2))
  await "the cluster's account" sacctmgr -i add cluster testcluster
}

configure() {
  local n
  cat >etc/slurm.conf <<TEXT
ClusterName=testcluster
SlurmctldHost=localhost
SlurmctldPort=$BASE
SlurmUser=$ME
SlurmdUser=$ME
AuthType=auth/munge
AuthInfo=socket=$D/run/munge.socket,cred_expire=5
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
ReturnToService=1
StateSaveLocation=$D/spool/ctld
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd.%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.%n.log
SlurmctldParameters=preempt_send_user_signal
# Nodes may claim more processors than this machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MinJobAge=3600
SlurmdTimeout=30
SlurmctldTimeout=30
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,sched_min_interval=100000,bf_interval=5
GresTypes=gpu
NodeName=n[1-$NODES] NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((BASE + 3))-$((BASE + 2 + NODES)) CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=16000 Gres=gpu:$GPUS State=UNKNOWN
PartitionName=low  Nodes=ALL Default=YES PriorityTier=1  PreemptMode=REQUEUE GraceTime=$GRACE MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL Default=NO  PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
TEXT
  for ((n = 1; n <= NODES; n++)); do
    for ((gpu = 0; gpu < GPUS; gpu++)); do ln -s /dev/null "dev/n$n-gpu$gpu"; done
    echo "NodeName=n$n Name=gpu File=$D/dev/n$n-gpu[0-$((GPUS - 1))]" >>etc/gres.conf
  done
  if [ "$ACCOUNTING" = no ]; then
    echo "AccountingStorageType=accounting_storage/none" >>etc/slurm.conf
    return
  fi
  # AccountingStoragePass: without it, slurmdbd is asked through the system's munge, which need not be there.
  cat >>etc/slurm.conf <<TEXT
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$((BASE + 2))
AccountingStoragePass=$D/run/munge.socket
AccountingStorageTRES=gres/gpu
TEXT
  PASSWORD=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
  (umask 077 && cat >etc/slurmdbd.conf) <<TEXT
AuthType=auth/munge
AuthInfo=socket=$D/run/munge.socket
DbdHost=localhost
DbdPort=$((BASE + 2))
SlurmUser=$ME
LogFile=$D/log/slurmdbd.log
PidFile=$D/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((BASE + 1))
StorageUser=slurm
StoragePass=$PASSWORD
StorageLoc=slurm
TEXT
}

ready() { [ "$(sinfo -h -N -p low -t idle -o %N | wc -l)" = "$NODES" ]; }

up() {
  local lacking n
  NODES=3 GPUS=2 GRACE=20 ACCOUNTING=yes
  while [ $# -gt 0 ]; do
    case $1 in
      --nodes) NODES=$2; shift ;;
      --gpus) GPUS=$2; shift ;;
      --grace) GRACE=$2; shift ;;
      --no-accounting) ACCOUNTING=no ;;
      *) usage ;;
    esac
    shift
  done
  [[ "$NODES $GPUS $GRACE" =~ ^[1-9][0-9]*\ [1-9][0-9]*\ [0-9]+$ ]] || usage
  mapfile -t lacking < <(missing "${SLURM[@]}")
  [ ${#lacking[@]} = 0 ] || die "missing: ${lacking[*]}. An administrator installs them: bash $0 install"
  # Sockets' paths are short, and slurm.conf has no quotes.
  [[ $D =~ ^[A-Za-z0-9_./+-]{1,70}$ ]] || die "$D: at most 70 characters, and only letters, digits and _ . / + -"
  [ -z "$(ls -A)" ] || [ -e etc/slurm.conf ] || die "$D holds other files"
  pid_of munged >/dev/null && die "a cluster is up in $D already; first: bash $0 down $D"
  down
  rm -rf etc log
  mkdir -p etc run log spool/ctld dev
  BASE=$(free_ports $((NODES + 3)))
  configure
  trap 'tail -n 5 log/* >&2; down' EXIT
  (umask 077 && head -c 128 /dev/urandom >run/munge.key)
  munged --force --key-file="$D/run/munge.key" --socket="$D/run/munge.socket" --pid-file="$D/run/munged.pid" \
    --log-file="$D/log/munged.log" --seed-file="$D/run/munge.seed" >>log/start.log 2>&1
  [ "$ACCOUNTING" = no ] || start_accounting
  start_ctld
  for ((n = 1; n <= NODES; n++)); do start_node "$n"; done
  await "every node" ready
  trap - EXIT
}

left() { # the daemons; people's own srun and salloc; jobs
  running | while read -r pid; do
    if grep -qxE 'slurm.*|munged|mariadbd|srun|salloc' "/proc/$pid/comm" 2>/dev/null ||
      grep -qz '^SLURM_JOB_ID=' "/proc/$pid/environ" 2>/dev/null; then echo "$pid"; fi
  done
}

down() {
  if pid_of slurmctld >/dev/null; then
    timeout 10 squeue -h -o %A | sort -u | xargs -r timeout 10 scancel || true
    for _ in {1..20}; do
      [ -n "$(timeout 10 squeue -h -o %A)" ] || break
      sleep 0.1
    done
  fi
  kill_all left
  kill_all steps
  kill_all left # what a step had begun meanwhile
  rm -rf run spool db dev
}

status() {
  local file daemon
  [ -d run ] || die "no cluster is up in $D"
  pid_of slurmctld >/dev/null && { sinfo -N -p low -o '%N %T %C %G'; squeue; }
  for file in run/*.pid; do
    daemon=$(basename "$file" .pid)
    echo "$daemon: $(pid_of "$daemon" || echo stopped)"
  done
}

PATH=$PATH:/usr/sbin:/sbin # a plain user's path lacks the daemons
[ $# -ge 1 ] || usage
verb=$1
shift
[ "$verb" != install ] || { install; exit; }
[ $# -ge 1 ] || usage
[ "$verb" != up ] || mkdir -p "$1"
[ -d "$1" ] || die "$1 is no folder"
D=$(cd "$1" && pwd -P)
shift
cd "$D"
case $verb in *-node) [ $# = 1 ] && [ -d "spool/n$1" ] || die "there is no node '${1:-}' in $D" ;; esac
ME=$(id -un)
export SLURM_CONF=$D/etc/slurm.conf
case $verb in
  up) up "$@" ;;
  down) down ;;
  env) printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" ;;
  status) status ;;
  stop-node) stop "slurmd.n$1" ;;
  kill-node) kill_node "$1" ;;
  start-node) revive_node "$1" ;;
  stop-ctld) stop slurmctld "${1:-TERM}" ;;
  start-ctld) start_ctld ;;
  *) usage ;;
esac
