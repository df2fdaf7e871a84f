# make demo   set up and run the main job on generated images (a few minutes)
# make test   set up and run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHELL := /bin/bash

# uv where it is installed, else pip: the same versions from the same constraints. uv shows its own progress, and finds or
# fetches a Python where $(PYTHON) is too old.
UV := $(shell command -v uv)
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
ifneq ($(UV),)
INSTALLER := uv
CHECK := true
CREATE := $(UV) venv --quiet --python "$$($(PYTHON) -c '$(RECENT)' 2>/dev/null && echo $(PYTHON) || echo '>=3.11')" $(VENV)
INSTALL := $(UV) pip install --compile-bytecode --python $(BIN)/python
SHOWN := cat
else
INSTALLER := pip
CHECK := $(PYTHON) -c '$(RECENT)' || { echo "Python 3.11 or later is needed: make demo PYTHON=python3.12"; exit 1; }
CREATE := $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
SHOWN := awk '/Downloading.*[MG]B/ || /^(Installing|Building)/ {print substr($$0, 1, 100); fflush()}'  # the large ones
endif

# One process per core; the tests of one file stay together, and share what they prepared. Files are taken in the order of
# tests/conftest.py, slow ones first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
# In CI the tests also print which lines and branches they reach.
COVERAGE := $(if $(CI),--cov --cov-report=term)

.PHONY: setup demo test coverage mutants lint docs docs-serve notebooks bench timm-sweep clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { $(CHECK); }
	@echo "Setting up $(VENV) with $(INSTALLER), once. On Linux, about 3 GB to download and 6 GB on disk, most of it torch with"
	@echo "its GPU libraries; less elsewhere. Two to five minutes on a fast line."
	@test -x $(BIN)/python || { $(CREATE); }
	@set -o pipefail; $(INSTALL) -c constraints.txt --config-settings editable_mode=compat -e ".[dev]" | $(SHOWN)
	@touch $@

demo: $(STAMP)
	$(BIN)/retouch demo

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) $(COVERAGE)
	@if command -v nvidia-smi >/dev/null; then $(BIN)/python -m pytest --gpu tests/test_gpu.py; fi

coverage: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term --cov-report=html:build/coverage

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, in build/site: open index.html there. Any warning fails. (The theme would announce its successor.)
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs
docs: $(STAMP)
	$(MKDOCS) build --strict

docs-serve: $(STAMP)
	$(MKDOCS) serve

# Runs the notebooks, and stores what they show.
notebooks: $(STAMP)
	$(BIN)/python docs/run_notebooks.py

# Breaks the code on purpose, in a copy, and says which test notices (tests/mutants.toml): some ten minutes.
mutants: $(STAMP)
	$(BIN)/python tests/mutants.py --write

# The quick speed benchmarks; the long accuracy runs name their own command in benchmarks/README.md.
bench: $(STAMP)
	$(BIN)/python benchmarks/probe_speed.py
	$(BIN)/python benchmarks/data_supply.py

# One model of every family of timm as an encoder: about three quarters of an hour on one slow core.
timm-sweep: $(STAMP)
	$(BIN)/python benchmarks/timm_sweep.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
