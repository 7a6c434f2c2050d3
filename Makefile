PYTHON ?= python3
BIN := .venv/bin
LOCK := $(shell $(PYTHON) -c 'import sys; v = "requirements-lock-py%d%d.txt" % sys.version_info[:2]; import os; print("-c " + v if os.path.exists(v) else "")' 2>/dev/null)

.PHONY: env demo test test-all lint
env: .venv/ready

.venv/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.txt -r requirements-dev.txt $(LOCK)
	@touch $@

demo: env
	$(BIN)/python train.py --config configs/solar_cells.py --workdir demo
	$(BIN)/python evaluate.py --workdir demo

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m "not slow"

test-all: lint
	$(BIN)/python -m pytest
