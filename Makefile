# Everything sets itself up: a virtual environment in .venv, and for the tests a browser.
# PYTHON chooses the interpreter (3.11 or newer): make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
INSTALL = $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)

# the versions that the measured facts are about
WITNESSES := torch==2.13.0 transformers==5.23.0 peft==0.21.2

.PHONY: dashboard lab test test-torch bench screenshots lint clean
.DELETE_ON_ERROR:

dashboard: $(VENV)/.dashboard  ## the pages, in your browser
	$(BIN)/memscape $(ARGS)

lab: $(VENV)/.lab  ## the same notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks/index.ipynb

test: lint $(VENV)/.browser  ## every claim, checked
	$(BIN)/python -m pytest

test-torch: $(VENV)/.torch  ## the same claims, against the real models on this machine
	$(BIN)/python -m pytest -m torch tests

bench: $(VENV)/.browser  ## speed, memory and transfer, as ratios against an empty page
	$(BIN)/python tests/bench.py

screenshots: $(VENV)/.browser  ## the pictures of the README, of the real pages
	$(BIN)/python tests/screenshots.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "memscape needs Python 3.11 or newer; '$(PYTHON)' is not: make PYTHON=python3.12, say" >&2; exit 1; }
	$(if $(UV),$(UV) venv --quiet --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

$(VENV)/.dashboard $(VENV)/.lab $(VENV)/.test: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[$*]'
	@touch $@

$(VENV)/.torch: $(VENV)/.test
	$(INSTALL) -e '.[test,measure]' $(WITNESSES)
	@touch $@

$(VENV)/.browser: $(VENV)/.test
	$(BIN)/python tests/browser.py
	@touch $@
