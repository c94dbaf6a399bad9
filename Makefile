# Needs Python >= 3.11 and a package index; everything else comes into .venv. `make help` lists what there is.
# Another interpreter: make test PYTHON=python3.13

ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(ENOUGH)' 2>/dev/null && echo $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
# Only errors, and nothing about running as root or about pip's own age.
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALL := $(PIP) install --root-user-action=ignore

UV ?= uv
UVFLAGS ?=
COMPILE = $(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-header $(UVFLAGS)

PYTEST_FLAGS ?=
# More than there are processors: many tests wait for a deadline, a server or a process.
PROCESSES ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
BENCH ?=

.PHONY: help demo test chaos lint types format bench pin clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: $(VENV)/.runtime ## replay a day of customer care in the embedded database
	@$(BIN)/lapse replay examples/customer_care.csv

test: lint types ## lint, types and all tests, on SQLite and on the newest PostgreSQL found (CI=true: on all)
	$(BIN)/pytest -m "not alone" --numprocesses=$(PROCESSES) --maxprocesses=8 --dist=worksteal $(PYTEST_FLAGS)
	$(BIN)/pytest -m alone $(PYTEST_FLAGS)

chaos: $(VENV)/.dev ## the faults of tests/chaos with their full numbers, one after the other; results are kept
	LAPSE_CHAOS=full $(BIN)/pytest tests/chaos --durations=0 $(PYTEST_FLAGS)

lint: $(VENV)/.dev ## style, format and import boundaries
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy --strict src tests benchmarks examples

format: $(VENV)/.dev ## format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench ## all benchmarks (two hours, the machine to itself); some: make bench BENCH="lag pinned"
	$(BIN)/python -m benchmarks $(BENCH)

pin: ## make requirements/ again from pyproject.toml; needs uv; newer versions: UVFLAGS=--upgrade
	$(COMPILE) --extra otel --group build --group dev -o requirements/dev.txt
	$(COMPILE) --group build --constraint requirements/dev.txt -o requirements/runtime.txt
	$(COMPILE) --extra otel --group build --constraint requirements/dev.txt -o requirements/otel.txt
	$(COMPILE) --group build --group bench --constraint requirements/dev.txt -o requirements/bench.txt

clean: ## remove the environment, caches and builds
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(or $(PYTHON),false) -c '$(ENOUGH)' 2>/dev/null \
		|| { echo "lapse needs Python 3.11 or later: install one, or say which: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamps are newer than what they were made from, so that a second run installs nothing.
$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(BIN)/python
	@echo "Installing what lapse needs ..."
	@$(INSTALL) --require-hashes -r requirements/runtime.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# dev.txt holds runtime.txt's pins, so this stamp makes the other.
$(VENV)/.dev: requirements/dev.txt requirements/runtime.txt pyproject.toml | $(BIN)/python
	@echo "Installing what lapse and its tests need ..."
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $(VENV)/.runtime $@

# So does bench.txt.
$(VENV)/.bench: requirements/bench.txt requirements/runtime.txt pyproject.toml | $(BIN)/python
	@echo "Installing what lapse and its benchmarks need ..."
	@$(INSTALL) --require-hashes -r requirements/bench.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $(VENV)/.runtime $@
