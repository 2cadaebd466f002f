# README's two commands are `make demo` and `make test`; everything they need is made by `env`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env demo demo-controls test test-full test-cluster bench image lock lint clean

VENV := .venv
BIN := $(VENV)/bin
# Installed packages are compiled once, when they are first imported.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
unexport VIRTUAL_ENV
export PATH := $(CURDIR)/$(BIN):$(PATH)
PYTEST := python -m pytest --dist worksteal
# Tests side by side: one a core, four at most, for each may train.
JOBS := $(shell cores=$$(nproc); echo $$((cores < 4 ? cores : 4)))

help:
	@echo "make demo          the whole experiment at laptop scale, under 15 minutes"
	@echo "make demo-controls the demo with its controls and five seeds: about 75 minutes on 2 cores"
	@echo "make test          what a laptop without root can run, under 10 minutes"
	@echo "make test-full     kills, resumes, rebuilds, parity: under 20 minutes"
	@echo "make test-cluster  what needs SLURM or a container: under 25 minutes"
	@echo "make bench         ratios against other tools, measured side by side"
	@echo "make image         the container image, recorded in container.lock"
	@echo "make lock          resolve the locks anew"
	@echo "make lint          ruff and mypy"

# The stamp names the lock it was made from, so an interrupted or outdated environment is mended.
env:
	@bash tools/env.sh

demo: env
	pirepro run specs/demo.yaml

demo-controls: env
	pirepro run specs/demo-controls.yaml

lint: env
	ruff format --check pi_repro tests tools
	ruff check pi_repro tests tools
	mypy

test: lint
	$(PYTEST) -n $(JOBS) -m "not full and not cluster"

test-full: env
	$(PYTEST) -n $(JOBS) -m full --timeout 1200

# Three private clusters side by side, each for a file's tests, which break parts of it one after another.
test-cluster: env
	@[ "$$(id -u)" != 0 ] || bash slurm/testcluster/cluster.sh install
	python -m pytest -n 3 --dist loadfile -m "cluster and not alone" --timeout 1800 tests/cluster
	python -m pytest -n 0 -m "cluster and alone" --timeout 1200 tests/cluster

bench: env
	python -m tests.benchmarks --write

# make image BASE=base.tar NAME=local-debian TOOL=podman FORMS=squashfs,folder; all have defaults.
image: env
	python -m tools.image $(if $(BASE),--base "$(BASE)") $(if $(NAME),--name "$(NAME)") \
	  $(if $(TOOL),--tool "$(TOOL)") $(if $(FORMS),--forms "$(FORMS)")

lock:
	@bash tools/lock.sh

clean:
	rm -rf $(VENV) .pirepro .mypy_cache .pytest_cache .ruff_cache
