#!/usr/bin/env bash
# A base image made here, for hosts that reach no registry: Debian bookworm with its Python.
#
#   slurm/testcluster/base.sh OUT.tar      then: make image BASE=OUT.tar NAME=local-debian
#
# Needs mmdebstrap, root and a Debian mirror. OUT.tar is what `docker save` writes, so every builder loads
# it. The same packages give the same bytes on every host; a newer package in the mirror gives another base,
# which is recorded as such.
set -euo pipefail

out=${1:?usage: slurm/testcluster/base.sh OUT.tar}
if ! command -v mmdebstrap >/dev/null; then
  echo "mmdebstrap is needed and not there; on Debian and Ubuntu: apt-get install mmdebstrap" >&2
  exit 3
fi
mkdir -p "$(dirname "$out")"
work=$(mktemp -d)
trap 'rm -rf "$work" "$out.part"' EXIT

# What python:3.11-slim has and the locked wheels need; dpkg's and man's files of no use are left out. This
# host's name and name servers, which mmdebstrap copies, are not the image's; runtimes mount theirs on the files. What
# the packages' scripts compiled differs from host to host; the image compiles its own.
SOURCE_DATE_EPOCH=0 mmdebstrap --quiet --variant=essential \
  --include=python3,python3-venv,libstdc++6,ca-certificates,netbase,tzdata \
  --dpkgopt=path-exclude=/usr/share/man/* --dpkgopt=path-exclude=/usr/share/doc/* \
  --dpkgopt=path-exclude=/usr/share/locale/* \
  --customize-hook='for name in hostname resolv.conf; do install -m 644 /dev/null "$1/etc/$name"; done' \
  --customize-hook='find "$1/usr" -name __pycache__ -prune -exec rm -r {} +' \
  bookworm "$work/layer.tar"

# One layer and a config without times, names or hosts: the config's sha256 is the image's id everywhere.
python3 - "$work/layer.tar" "$out.part" <<'PYTHON'
import hashlib
import io
import json
import sys
import tarfile

layer, out = sys.argv[1:]
with open(layer, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
config = {
    "architecture": "amd64",
    "os": "linux",
    "created": "1970-01-01T00:00:00Z",
    "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["python3"]},
    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "mmdebstrap bookworm"}],
}
config = json.dumps(config, sort_keys=True).encode()
name = hashlib.sha256(config).hexdigest()
manifest = [{"Config": f"{name}.json", "RepoTags": ["localhost/pirepro-base:bookworm"], "Layers": ["layer.tar"]}]
with tarfile.open(out, "w") as archive:
    for path, content in ((f"{name}.json", config), ("manifest.json", json.dumps(manifest).encode())):
        entry = tarfile.TarInfo(path)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    entry = tarfile.TarInfo("layer.tar")
    with open(layer, "rb") as file:
        entry.size = file.seek(0, 2)
        file.seek(0)
        archive.addfile(entry, file)
print(f"sha256:{name}")
PYTHON
mv "$out.part" "$out"
