#!/usr/bin/env bash
# Make .venv from requirements-dev.lock, hashes checked. Does nothing when it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(uname -s) $(uname -m)" != "Linux x86_64" ]; then
  echo "pi_repro runs on Linux x86-64; this is $(uname -s) $(uname -m). Use the container: see README, 'Other platforms'." >&2
  exit 3
fi

# The environment being made anew must not be the Python that makes it.
PATH=${PATH//"$PWD/.venv/bin:"/}
supported='import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'
python=""
for name in ${PYTHON:-python3.11 python3.12 python3 python}; do
  if command -v "$name" >/dev/null && "$name" -c "$supported" 2>/dev/null; then python=$name; break; fi
done
if [ -z "$python" ]; then
  echo "Python 3.11 or 3.12 is needed and none was found. Install one, or name it: make ${1:-demo} PYTHON=/path/to/python3.11" >&2
  exit 3
fi

want="$("$python" -c 'import sys; print(sys.version.split()[0])') $(cat requirements-dev.lock pyproject.toml | sha256sum | cut -c1-64) $PWD"
if [ -x .venv/bin/pirepro ] && [ "$(cat .venv/stamp 2>/dev/null)" = "$want" ]; then exit 0; fi

# One maker at a time; a second waits and finds the environment made.
exec 9>.env.lock
flock 9
if [ -x .venv/bin/pirepro ] && [ "$(cat .venv/stamp 2>/dev/null)" = "$want" ]; then exit 0; fi

echo "making .venv with $("$python" --version) from requirements-dev.lock (about 3 GB the first time)"
rm -rf .venv
if ! "$python" -m venv .venv 2>.env.log; then
  cat .env.log >&2; rm -f .env.log
  echo "Python's venv module does not work; on Debian and Ubuntu: apt-get install python3-venv" >&2
  exit 3
fi
rm -f .env.log
# uv installs the locked wheels in parallel; its own wheel is checked against the same lock.
awk '/^uv==/ {on=1} on {print} on && !/\\$/ {exit}' requirements-dev.lock > .venv/uv.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
.venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements-dev.lock
# No build isolation and no dependencies: nothing is resolved outside the lock.
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
echo "$want" > .venv/stamp
