SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Programs built from source for the tests; a second checkout and the next CI run find them there.
export HEIMDALL_TOOL_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/heimdall-tools

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Heimdall needs Python 3.11 or newer; '$(PYTHON)' is not. Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' can not make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One environment, two stamps: running needs the first only. setuptools is pinned too, so the build is not isolated.
$(VENV)/runtime.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --constraint constraints.txt setuptools
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --constraint constraints.txt setuptools
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $(VENV)/runtime.stamp $@

$(VENV)/fuzz.stamp: $(VENV)/dev.stamp
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[dev,fuzz]'
	@touch $@

.PHONY: demo
demo: $(VENV)/runtime.stamp ## run the whole mesh against simulated receivers, once
	$(BIN)/heimdall demo

.PHONY: tools
tools: $(VENV)/dev.stamp ## build the programs that the tests run into $HEIMDALL_TOOL_CACHE
	$(BIN)/python tools/go_tools.py
	$(BIN)/python -m tools.postgres_packages
	$(BIN)/python -m tools.pglite_package

# Tests without a mesh of processes come first: they take a core each and would disturb those that keep time.
PURE_TESTS := tests/acceptance tests/contract tests/fuzz tests/unit

.PHONY: test
test: $(VENV)/dev.stamp tools ## run every test but the faults, in random order, with coverage
	$(BIN)/pytest --numprocesses=2 --cov --cov-report= $(PURE_TESTS)
	$(BIN)/pytest --numprocesses=2 $(addprefix --ignore=,$(PURE_TESTS) tests/compose tests/e2e/faults) --cov --cov-append --cov-report=term

.PHONY: test-faults
test-faults: $(VENV)/dev.stamp ## break receivers, services, network, disk and clocks under running acquisitions
	$(BIN)/pytest --numprocesses=3 --timeout=240 tests/e2e/faults

# Nothing is pulled: base images are made of Debian's packages, MinIO and PostgreSQL stand in under the pinned names.
.PHONY: test-compose
test-compose: $(VENV)/dev.stamp tools ## build the image, run docker-compose.yml under podman and record once; as root
	$(BIN)/python -m tools.container_packages
	$(BIN)/python tools/go_tools.py mc
	$(BIN)/python -m tools.base_images
	$(BIN)/pytest --capture=no tests/compose

# Inputs for each target of `make fuzz`.
FUZZ_RUNS ?= 1000000

.PHONY: fuzz
fuzz: $(VENV)/fuzz.stamp ## feed every parser with $FUZZ_RUNS broken inputs, a million by default
	$(BIN)/python -m tests.fuzz.run --runs=$(FUZZ_RUNS) $(FUZZ_TARGETS)

.PHONY: lint
lint: $(VENV)/dev.stamp ## check style, types, contracts and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/contract/test_import_rules.py

.PHONY: gen
gen: $(VENV)/dev.stamp ## generate stubs, descriptor set and contract docs from protos/
	$(BIN)/python tools/generate.py

.PHONY: check-gen
check-gen: $(VENV)/dev.stamp ## fail if a generated file is out of date
	$(BIN)/python tools/generate.py --check

.PHONY: acceptance
acceptance: $(VENV)/dev.stamp ## measure what the estimators reach into docs/acceptance.md; needs the real recordings
	$(BIN)/python -m tools.acceptance_docs

.PHONY: breaking
breaking: $(VENV)/dev.stamp ## fail if the contracts break callers of main
	BUF=$(BIN)/buf tools/breaking.sh

.PHONY: bench-pipeline
bench-pipeline: $(VENV)/dev.stamp ## measure the whole mesh
	$(BIN)/python benchmarks/bench_pipeline.py

.PHONY: bench-dsp
bench-dsp: $(VENV)/dev.stamp ## measure the estimators on one core
	$(BIN)/python -m benchmarks.bench_dsp

.PHONY: bench-dsp-streams
bench-dsp-streams: $(VENV)/dev.stamp ## measure one dsp process under 16 fast streams
	$(BIN)/python -m benchmarks.bench_dsp_streams

.PHONY: bench-storage
bench-storage: $(VENV)/dev.stamp tools ## measure storage on MinIO and PostgreSQL beside raw COPY and raw put
	$(BIN)/python -m benchmarks.bench_storage

SOAK_MINUTES ?= 13

.PHONY: soak
soak: $(VENV)/dev.stamp ## record for SOAK_MINUTES and fail if a service grows; SOAK_OPTIONS=--write-docs
	$(BIN)/python -m benchmarks.soak --minutes $(SOAK_MINUTES) $(SOAK_OPTIONS)

.PHONY: clean
clean: ## remove the environment and every cache of this checkout
	rm -rf $(VENV) build ./*.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
