# make demo   set up and run the main job on generated images (a few minutes)
# make test   set up and run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

# uv where it is installed, else pip: the same versions from the same constraints. uv shows its own progress.
UV := $(shell command -v uv)
ifneq ($(UV),)
INSTALLER := uv
INSTALL := $(UV) pip install --compile-bytecode --python $(BIN)/python
SHOWN := cat
else
INSTALLER := pip
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
SHOWN := awk '/Downloading.*[MG]B/ || /^(Installing|Building)/ {print substr($$0, 1, 100); fflush()}'  # the large ones
endif

# One process per core; the tests of one file stay together, and share what they prepared.
PARALLEL := -n auto --dist loadfile
# In CI the tests also print which lines and branches they reach.
COVERAGE := $(if $(CI),--cov --cov-report=term)

.PHONY: setup demo test coverage mutants lint docs docs-serve notebooks bench timm-sweep clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) with $(INSTALLER), once: about 3 GB to download and 6 GB on disk, most of it torch with its"
	@echo "GPU libraries. Two to five minutes on a fast line."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -c constraints.txt --config-settings editable_mode=compat -e ".[dev]" | $(SHOWN)
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
