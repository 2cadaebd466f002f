#!/usr/bin/env bash
# Debian's Chromium, with which tests open a report's page (root); nothing to do where there is one.
set -euo pipefail
for name in chromium chromium-browser google-chrome google-chrome-stable; do
  ! command -v "$name" >/dev/null || exit 0
done
[ "$(id -u)" = 0 ] || { echo "chromium.sh: no Chromium. An administrator installs it: bash $0" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -o DPkg::Lock::Timeout=600 install -y --no-install-recommends chromium >/dev/null
