# Two commands are all a newcomer needs: make demo, make test.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
PYTHON ?= python3.11
JOBS ?= 2

.PHONY: help demo test test-fast test-slow test-cluster test-nightly check format bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo          set up, then run the starter recipe through every stage"
	@echo "make test          set up, then every test that this machine can run"
	@echo "make test-fast     the tests of under a second each"
	@echo "make test-cluster  the tests on the cluster that KUBECONFIG names"
	@echo "make test-nightly  the long fault runs"
	@echo "make check         formatting, lint, import contracts, types, fast tests"
	@echo "make bench         every benchmark, each beside its peer; writes the table of README.md"

# DeepSpeed ships as source and is built against the torch that is installed, so it comes last.
$(VENV)/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: '$(PYTHON)' was not found; name yours with make PYTHON=..."; exit 69; }
	@echo "Setting up $(VENV): about three minutes, 3 GB of disk"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt pip wheel setuptools ninja editables hatchling
	$(PIP) --constraint constraints.txt --editable '.[all,bench,test]'
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(PIP) --constraint constraints.txt --no-build-isolation deepspeed
	@touch $@

demo: $(VENV)/.ready
	@$(VENV)/bin/interloom run starter

check: $(VENV)/.ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy
	$(PY) -m pytest -q -n $(JOBS) -m "not slow and not gpu and not nightly and not cluster"

test-fast: $(VENV)/.ready
	$(PY) -m pytest -q -n $(JOBS) -m "not slow and not gpu and not nightly and not cluster"

test-slow: $(VENV)/.ready
	$(PY) -m pytest -q -m "slow and not gpu and not nightly and not cluster"

test-cluster: $(VENV)/.ready
	$(PY) -m pytest -q -m "cluster and not nightly"

# The cluster tier only where KUBECONFIG names a cluster.
test: check test-slow $(if $(KUBECONFIG),test-cluster)

test-nightly: $(VENV)/.ready
	$(PY) -m pytest -q -m nightly

bench: $(VENV)/.ready
	$(PY) benchmarks

format: $(VENV)/.ready
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
