# make repro   set up .venv and run the pipeline
# make test    set up what the tests need and run them
# make check   format, lint, types and tests
# make lock    write the lock files anew from pyproject.toml

PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
# A lock file holds the hash of every package; --no-deps leaves imclass's own line to it.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUFF := $(BIN)/ruff
DEV := .venv/.installed-dev

.PHONY: repro test check format lock

repro: .venv/.installed
	dvc repro

test: $(DEV)
	$(BIN)/python -m pytest $(PYTEST)

check: $(DEV)
	$(RUFF) format --check
	$(RUFF) check
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PYTEST)

format: $(DEV)
	$(RUFF) check --fix
	$(RUFF) format

lock: $(DEV)
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --extra dev pyproject.toml -c requirements.txt -o requirements-dev.txt

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: requirements.txt pyproject.toml | .venv/bin/python
	@echo "Installing into .venv (PyTorch is large: some minutes the first time)"
	$(INSTALL) --require-hashes -r requirements.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.txt .venv/.installed
	$(INSTALL) --require-hashes -r requirements-dev.txt
	@touch $@
