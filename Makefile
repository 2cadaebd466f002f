# README's two commands are `make demo` and `make test`; everything they need is made by `env`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help env demo test test-full test-cluster bench lock lint clean

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
	@echo "make test          what a laptop without root can run, under 10 minutes"
	@echo "make test-full     kills, resumes, rebuilds, parity: under 20 minutes"
	@echo "make test-cluster  what needs SLURM or a container"
	@echo "make bench         ratios against other tools, measured side by side"
	@echo "make lock          resolve the locks anew"
	@echo "make lint          ruff and mypy"

# The stamp names the lock it was made from, so an interrupted or outdated environment is mended.
env:
	@bash tools/env.sh

demo: env
	pirepro run specs/demo.yaml

lint: env
	ruff format --check pi_repro tests
	ruff check pi_repro tests
	mypy

test: lint
	$(PYTEST) -n $(JOBS) -m "not full and not cluster"

test-full: env
	$(PYTEST) -n $(JOBS) -m full --timeout 1200

test-cluster: env
	@echo "nothing here needs a cluster yet: the SLURM launcher comes next"

bench: env
	python -m tests.benchmarks --write

lock:
	@bash tools/lock.sh

clean:
	rm -rf $(VENV) .pirepro .mypy_cache .pytest_cache .ruff_cache
