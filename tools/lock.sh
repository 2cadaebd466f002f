#!/usr/bin/env bash
# Resolve both locks anew. requirements.lock holds what stages need and can alter bits;
# requirements-dev.lock holds the same versions and what drives and checks besides.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
  uv pip compile --quiet --upgrade --generate-hashes --no-header --no-emit-index-url --no-annotate \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 pyproject.toml "$@"
}
compile --extra dev -o requirements-dev.lock
compile -c requirements-dev.lock -o requirements.lock
