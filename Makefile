# Every target sets up what it needs in .venv; nothing has to be installed by hand but Python 3.11+, git and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Tests wait for other processes more than they compute, so that there are more workers than processors.
WORKERS ?= $(shell n=$$(($$(nproc) + 1)); echo $$((n < 16 ? n : 16)))
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal
LOCK := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links

# The control planes that tests start would each compile the whole program, where this is set.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup hooks run serve test unit cover lint format peers bench lock proto clean

help:
	@echo "make run    a real mesh on this machine: control plane, two workloads, two Envoy sidecars"
	@echo "make test   every test; make unit for the fast ones alone, make cover with the coverage of all"
	@echo "make serve  the control plane alone"
	@echo "make lint   ruff, mypy and the dependency rules"
	@echo "make bench  the benchmarks, each printing a table"
	@echo "make setup  install into .venv; hooks, lock, proto and format are for developers"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Meshward needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

hooks: setup
	$(BIN)/pre-commit install

run: setup
	@$(BIN)/meshward demo

serve: setup
	@$(BIN)/meshward serve

test: setup
	$(PYTEST)

unit: setup
	$(PYTEST) tests/unit tests/property

cover: setup
	$(PYTEST) --cov --cov-report=term

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Real peers that pip does not install, into ~/.cache/meshward-peers; needs Go, and takes minutes.
peers: setup
	$(BIN)/python -m tests.support.peers

bench: setup
	$(BIN)/python -m bench

lock: setup
	$(LOCK) --extra dev --output-file requirements.lock
	$(LOCK) docker/build.in --extra kubernetes --extra postgres --constraint requirements.lock --output-file docker/requirements.lock

proto: setup
	$(BIN)/python proto/generate.py

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
