#!/usr/bin/env bash
# On the host, before a stage starts: is this the image that container.lock records? Exits 3 where it is not.
#
#   slurm/prologue.sh FORM PATH SHA256
#
#   squashfs, sif    PATH is a file with that sha256
#   folder           PATH/opt/pirepro/manifest.json has that sha256, each file that it lists has its own, each link
#                    leads where it says, and in the trees that it closes is nothing else
#   podman, docker   PATH is a reference, and SHA256 the id of the image it names
#
# What was read once is read again when a file's inode, size or times change, or with PIREPRO_FULL_CHECK=1.
set -euo pipefail
export LC_ALL=C

form=${1:?FORM} path=${2:?PATH} want=${3:?SHA256}
stamps=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.pirepro/images/checked
stamp=$stamps/$(printf %s "$path" | sha256sum | cut -c1-32)

refuse() {
  echo "the container image is not the one that container.lock records: $1" >&2
  echo "  image:   $path ($form)" >&2
  echo "  allowed: $want" >&2
  echo "  to do:   make image, or copy the recorded image to its place; nothing was started" >&2
  exit 3
}
sums() { # FILE...: "SHA256  FILE" lines; OpenSSL is several times faster
  if command -v openssl >/dev/null; then openssl dgst -sha256 -r "$@" | sed 's/ \*/  /'; else sha256sum -- "$@"; fi
}
sum() { sums /dev/stdin | cut -c1-64; }
wrong() { # "SHA256  FILE"...: the first file that has another sha256
  local found
  found=$(sums "${@#*  }" 2>/dev/null) || true
  [ "$found" = "$(printf '%s\n' "$@")" ] && return
  comm -23 <(printf '%s\n' "$@" | sort) <(sort <<<"$found") | sed 's/^[0-9a-f]*  //;q'
  return 255 # xargs stops
}
export -f sums wrong
names() { sed -n 's/^{\{0,1\}"'"$1"'": \[\(.*\)\],$/\1/p' "$manifest" | tr -d '" ' | tr , '\n'; } # of the manifest's head
# A tree that is gone is told by what is missing of it.
entries() { { find "${@:2}" \( -type f -o -type l \) -printf "$1" 2>/dev/null || true; } | sort; } # FORMAT TREE...
# seen STATE: was it found right in this very state?
seen() { [ -z "${PIREPRO_FULL_CHECK:-}" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want $1" ]; }
# A workspace that can't be written is no reason to stop: the next job reads the image again.
remember() {
  mkdir -p "$stamps" 2>/dev/null && printf '%s\n' "$want $1" >"$stamp.$$" 2>/dev/null && mv "$stamp.$$" "$stamp" || true
}

case $form in
  squashfs | sif)
    [ -f "$path" ] || refuse "no such file"
    state=$(stat -L -c '%i %s %.9Y %.9Z' -- "$path")
    seen "$state" && exit 0
    found=$(sum <"$path")
    [ "$found" = "$want" ] || refuse "its sha256 is $found"
    ;;
  folder)
    case $path in /*) ;; *) path=$PWD/$path ;; esac
    manifest=$path/opt/pirepro/manifest.json
    [ -f "$manifest" ] || refuse "there is no $manifest"
    found=$(sum <"$manifest")
    [ "$found" = "$want" ] || refuse "its list of files has sha256 $found"
    cd "$path"
    mapfile -t trees < <(names trees)
    mapfile -t closed < <(names closed)
    state=$(entries '%p %y %l %i %s %T@ %C@\n' "${trees[@]}" | sum)
    seen "$state" && exit 0
    # A line of the list is ["path", size, "sha256"], and of a link ["path", -1, "where it leads"].
    listed=$(sed -n 's/^\["\(.*\)", -1, "\(.*\)"\],\{0,1\}$/l \1\t\2/p; t
      s/^\["\(.*\)", [0-9]*, "[0-9a-f]\{64\}"\],\{0,1\}$/f \1\t/p' "$manifest" | sort)
    changed=$(comm -23 <(echo "$listed") <(entries '%y %p\t%l\n' "${trees[@]}") | sed -n '1s/^..\([^\t]*\).*/\1/p')
    [ -z "$changed" ] || refuse "file $changed was changed or is not there"
    stranger=$(comm -13 <(echo "$listed") <(entries '%y %p\t%l\n' "${closed[@]}") | sed -n '1s/^..\([^\t]*\).*/\1/p')
    [ -z "$stranger" ] || refuse "file $stranger does not belong to it"
    changed=$(sed -n 's/^\["\(.*\)", [0-9]*, "\([0-9a-f]\{64\}\)"\],\{0,1\}$/\2  \1/p' "$manifest" |
      xargs -d '\n' -n 500 -P "$(nproc)" bash -c 'wrong "$@"' bash 2>/dev/null) || refuse "file ${changed%%$'\n'*} was changed"
    ;;
  podman | docker)
    found=$("$form" image inspect --format '{{.Id}}' "$path" 2>/dev/null) || refuse "$form has no such image here"
    [ "${found#sha256:}" = "$want" ] || refuse "its id is $found"
    exit 0
    ;;
  *)
    echo "prologue.sh: unknown form '$form'; known are squashfs, sif, folder, podman, docker" >&2
    exit 2
    ;;
esac
remember "$state"
