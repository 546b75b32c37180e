# The one list of verbs: people and CI (.ci/run) use the same.
# Needs make, pip and a Python of 3.11 or newer; name another one with PYTHON=.

# The first interpreter that is new enough.
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
	$(if $(shell $(p) -c 'import sys; print("y" if sys.version_info >= (3, 11) else "")' 2>/dev/null),$(p))))
BIN := .venv/bin
READY := $(BIN)/.ready
# Tests wait more than they work, so six workers fit a machine of two cores; each has its own servers, and
# begins with the long ones of its share of the tests (tests/support/order.py).
# A test that hangs ends its process (tests/support/watchdog.py), and that ends the run: pytest-xdist waits for
# ever when a worker that it has begun again gets the one test that is left.
PYTEST := $(BIN)/pytest -n 6 --dist worksteal --max-worker-restart 0
# More arguments for pytest, e.g. make test ARGS=tests/lua
ARGS :=

# Each worker imports the tests, and hundreds of tests start the command: compiled code is kept.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast faults check format bench sync build clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' \
		| while IFS="$$(printf '\t')" read -r verb text; do printf '  %-10s %s\n' "$$verb" "$$text"; done

setup: $(READY) ## Create .venv with Millstream and every tool in it

# The stamp makes it a no-op until pyproject.toml changes. pip 25.1 is the first that knows --group.
$(READY): pyproject.toml
	@test -n '$(strip $(PYTHON))' || { echo 'Millstream needs Python 3.11 or newer: make setup PYTHON=/path/to/python3.11'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@touch $@

demo: setup ## See it work, on a server of its own
	$(BIN)/millstream demo

test: setup ## Run all tests, on real servers; ARGS="..." goes to pytest
	$(PYTEST) $(ARGS)

test-fast: setup ## Run all tests but the slow ones
	$(PYTEST) -m 'not slow' $(ARGS)

faults: setup ## Break everything at random, and prove that nothing is lost; ARGS="--minutes 10"
	$(BIN)/python -m tests.chaos $(ARGS)

check: setup ## Run every check that is not a test of behaviour; examples of the docs, too
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/unasync.py --check
	$(PYTEST) -q tests/docs

format: setup ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup ## Measure throughput against the ceiling of a bare socket
	$(BIN)/python -m benchmarks

sync: setup ## Regenerate src/millstream/sync from src/millstream/aio
	$(BIN)/python tools/unasync.py

build: setup ## Build the wheel and the source archive into dist/
	$(BIN)/hatchling build

clean: ## Remove everything that can be made again
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
