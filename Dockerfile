# The environment that stages run in: a base pinned by digest, and requirements.lock, checked by hash.
#
# Built by `make image` (tools/image.py), which fetches the wheels, passes LOCK and records the result in
# container.lock. The build needs no network and gives the same bytes each time: no file keeps the time of the
# build. The checkout is mounted when a stage runs and never copied in, so that no commit changes the image.
ARG BASE=docker.io/library/python:3.11.13-slim-bookworm@sha256:86adf8dbadc3d6e82ee5dd2c74bec2e1c2467cdad47886280501df722372d2e1
FROM ${BASE}

# sha256 of requirements.lock; the build fails where it is not the file's.
ARG LOCK
# Read by Python's tools and by BuildKit; buildah and podman are given --timestamp 0 besides.
ARG SOURCE_DATE_EPOCH=0
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONHASHSEED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# pip comes from the base into a folder that does not stay: the environment holds what is locked, and no more.
# /etc/environment tells the settings above to enroot, which starts from a file that carries none. The user is
# written by hand, for useradd notes the day. The folders are where clusters mount theirs: charliecloud, which can't
# make mount points, needs them there.
RUN --mount=type=bind,from=wheels,target=/mnt/wheels \
    --mount=type=bind,source=requirements.lock,target=/mnt/requirements.lock \
    --mount=type=bind,source=tools/bake.py,target=/mnt/bake.py \
    set -eu; \
    python3 -m venv /tmp/pip; \
    python3 -m venv --without-pip /opt/venv; \
    /tmp/pip/bin/python -m pip --python /opt/venv/bin/python --disable-pip-version-check --no-cache-dir install \
      --quiet --no-index --find-links /mnt/wheels --require-hashes --only-binary :all: --no-deps --no-compile \
      --requirement /mnt/requirements.lock; \
    rm -rf /tmp/pip; \
    /opt/venv/bin/python /mnt/bake.py /mnt/requirements.lock "$LOCK" /opt/pirepro/manifest.json; \
    env | grep -E '^(PATH|LANG|PYTHONDONTWRITEBYTECODE|PYTHONHASHSEED|NVIDIA_[A-Z_]*)=' | sort > /etc/environment; \
    echo 'pirepro:x:1000:1000::/home/pirepro:/bin/sh' >> /etc/passwd; \
    echo 'pirepro:x:1000:' >> /etc/group; \
    mkdir -p /home/pirepro /data /gpfs /lustre /nfs /project /projects /scratch /shared /work; \
    chown 1000:1000 /home/pirepro

LABEL org.pirepro.lock=${LOCK}
USER 1000:1000
WORKDIR /home/pirepro
