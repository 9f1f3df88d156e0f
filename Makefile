# Two commands do everything: `make serve` and `make test`. Running them again repeats no work.
PYTHON ?= python3.11
VENV ?= .venv
PORT ?= 3000
ARTIFACT ?= artifacts/vigie-compact

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: serve train test lint help

help:
	@echo "make serve   install, train the embedded default if there is none yet, serve it on 127.0.0.1:$(PORT)"
	@echo "make test    install, run the tests"
	@echo "make train   install, train the embedded default"
	@echo "make lint    install, run ruff and mypy"

serve: $(ARTIFACT)/artifact.json
	$(BIN)/python -m serving --artifact $(ARTIFACT) --port $(PORT)

train: $(ARTIFACT)/artifact.json

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# The installation is an order-only prerequisite: a newer one does not make a trained artifact out of date.
$(ARTIFACT)/artifact.json: | $(INSTALLED)
	$(BIN)/python -m training.train --output $(ARTIFACT)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Vigie needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[train,serve,clients,dev]" -c constraints.txt
	@touch $@
