#!/bin/bash
# A stand-in for a stage: STEPS steps of a second each, kept in work/, saved at USR2 as a training's are,
# and in the end published in STORE. Its last word is the job's file, as the worker's is.
set -euo pipefail
file=${!#}
folder=${file%/*} stop=
trap 'stop=1' USR2 TERM
exec 9>"$folder/lease.json"
flock -n 9 || exit 75
step=$(ls "$folder/work" | wc -l)
echo "begins after step $step" >>"$folder/log.txt"
while [ "$step" -lt "$STEPS" ]; do
  sleep 1 9>&- &
  wait $! || true
  step=$((step + 1))
  : >"$folder/work/$step"
  if [ -n "$stop" ]; then exit 130; fi
done
mkdir -p "$STORE/${folder##*/}"
echo '{"files": []}' >"$STORE/${folder##*/}/manifest.json"
