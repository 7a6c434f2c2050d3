PYTHON ?= python3
BIN := .venv/bin

.PHONY: env demo test test-all faults lint docs release-check
env: .venv/ready
ifneq ($(origin PYTHON),file)
	@$(same_python) || { echo "make: .venv is $$($(BIN)/python -V), $(PYTHON) is another; rm -r .venv, then again" >&2; exit 2; }
endif

version = $(1) -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null
same_python = test "$$($(call version,$(BIN)/python))" = "$$($(call version,$(PYTHON)))"

# .venv.unfinished exists while .venv is being made. If an interrupted run has left it, .venv is made again.
.venv/ready: pyproject.toml $(wildcard locks/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
	  "make: Python 3.11 or newer is needed, $(PYTHON) is not; for instance: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo \
	  "make: $(PYTHON) lacks its venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
	@if [ -e .venv.unfinished ]; then rm -rf .venv; fi
	@touch .venv.unfinished
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@lock=locks/py$$($(call version,$(BIN)/python)).txt; \
	test -f $$lock || lock=; \
	echo "Installing into .venv for $$($(BIN)/python -V), $${lock:-newest releases}: about 480 MB to fetch, one to ten minutes"; \
	$(BIN)/python -m pip install -q --disable-pip-version-check \
	  -e ".[dev]" $${lock:+-c $$lock} || { \
	  echo "make: the packages could not be installed, pip says why above; the same command tries again" >&2; exit 2; }
	@rm .venv.unfinished
	@touch $@

demo: env
	$(BIN)/python train.py --config configs/solar_cells.py:mono,daad_features --workdir demo
	$(BIN)/python evaluate.py --workdir demo

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

# Files side by side; each test process has eight devices already.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

test: lint
	$(PYTEST) -m "not slow"

test-all: lint
	$(PYTEST)

# Injects faults of every kind, and prints tried, right, wrong and lost for each part. `test-all` tries a twentieth.
faults: env
	DAAD_FAULTS=all $(BIN)/python -m pytest -s tests/faults

# The documentation site, in site/. Open site/index.html in a browser; no server and no network are needed.
docs: env
	$(BIN)/python -m maintenance.commands_page
	$(BIN)/python -m zensical build --clean --strict

# Builds the package and the site, and installs the package into clean environments. Publishes nothing.
release-check: env
	$(BIN)/python -m maintenance.release_check
