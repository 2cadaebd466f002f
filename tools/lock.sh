#!/usr/bin/env bash
# Resolve both locks anew. requirements.lock holds what stages need and can alter bits;
# requirements-dev.lock holds the same versions and what drives and checks besides.
#
#   tools/lock.sh        everything to its newest version: changes every fingerprint
#   tools/lock.sh dev    only what drives and checks: requirements.lock stays as it is, to the byte
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
  uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --no-annotate \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 pyproject.toml "$@"
}
case "${1:-all}" in
  all)
    compile --upgrade --extra dev -o requirements-dev.lock
    compile --upgrade -c requirements-dev.lock -o requirements.lock
    ;;
  dev) compile --extra dev -c requirements.lock -o requirements-dev.lock ;;
  *) echo "usage: tools/lock.sh [all|dev]" >&2; exit 2 ;;
esac
