# make demo   set up and run the main job on generated images (a few minutes)
# make test   set up and run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# In CI the tests also print which lines and branches they reach.
COVERAGE := $(if $(CI),--cov --cov-report=term)

.PHONY: setup demo test coverage mutants lint bench timm-sweep clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/retouch demo

test: $(STAMP)
	$(BIN)/python -m pytest $(COVERAGE)

coverage: $(STAMP)
	$(BIN)/python -m pytest --cov --cov-report=term --cov-report=html:build/coverage

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Breaks the code on purpose, in a copy, and says which test notices (tests/mutants.toml): some ten minutes.
mutants: $(STAMP)
	$(BIN)/python tests/mutants.py --write

# The quick speed benchmarks; the long accuracy runs name their own command in benchmarks/README.md.
bench: $(STAMP)
	$(BIN)/python benchmarks/probe_speed.py
	$(BIN)/python benchmarks/data_supply.py

# One model of every family of timm as an encoder: a quarter of an hour on one core.
timm-sweep: $(STAMP)
	$(BIN)/python benchmarks/timm_sweep.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
