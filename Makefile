# `make` lists the targets. Everything runs inside .venv, which `make setup` fills from the lock file:
# with Python 3.10 to 3.13, the first found (3.12 before others), PYTHON=PATH, or one that uv fetches.
PYTHON ?=
VENV ?= .venv
BIN := $(VENV)/bin
LOCK ?= requirements.lock
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup lock lint format test test-slow test-large smoke wheel conformance demo web docs clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

setup: $(VENV)/.installed  ## Create .venv and install the locked packages (GPU: make setup LOCK=requirements-gpu.lock)

$(VENV)/.installed: $(LOCK) pyproject.toml
	@sh tools/make_venv.sh $(VENV) $(PYTHON)
	@echo "installing the packages of $(LOCK) into $(VENV) (some minutes the first time)"
	@$(BIN)/pip install --quiet --require-hashes --requirement $(LOCK)
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

EXTRAS := --extra beam --extra cloud --extra dev --extra docs --extra heic --extra kecam --extra mlflow --extra onnx --extra parquet --extra report --extra screen --extra tune --extra web
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate
lock: setup  ## Resolve the lock files anew from pyproject.toml, for all four Pythons
	$(COMPILE) $(EXTRAS) pyproject.toml --output-file requirements.lock
	$(COMPILE) $(EXTRAS) --extra gpu pyproject.toml --constraint requirements.lock --output-file requirements-gpu.lock

demo: setup  ## A small model's answers, then the whole path on drawn images, in a few minutes
	@$(BIN)/python tools/demo.py

EXPORT ?= export/demo
HOST ?= 127.0.0.1
PORT ?= 8080
web: setup  ## A model in the browser: make web EXPORT=export/mine SAMPLES=photos
	@$(BIN)/python -m tools.web --export="$(EXPORT)" --host="$(HOST)" --port="$(PORT)" --samples="$(SAMPLES)"

docs: setup  ## The documentation as a site, which needs no network: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "the documentation is site/index.html"

lint: setup  ## Check format, rules, types of the API, import direction and links
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_layout.py tests/test_links.py

format: setup  ## Format the code and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# A process on each core, each with some files of tests, which share what their fixtures make.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: setup  ## Run the tests (some minutes on two cores)
	@$(PYTEST)

test-slow: setup  ## Run the tests that take more than some seconds each
	@$(PYTEST) -m "slow and not large" --timeout=180

test-large: setup  ## Run the tests that take minutes or much memory
	@$(PYTEST) -m large

SMOKE := tests/test_foundation.py tests/test_augment.py tests/test_end_to_end.py tests/test_model_file.py
smoke:  ## Run a few tests on another Python: make smoke PYTHON=python3.13
	@$(MAKE) --no-print-directory setup VENV=.venv-smoke
	@.venv-smoke/bin/python -m pytest -m "not large" $(SMOKE)

wheel: setup  ## Build dist/tfpipe-*.whl, and try it in an empty environment
	@rm -rf dist build
	@$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@$(BIN)/python -m tools.check_wheel dist/*.whl

TARGET ?= 127.0.0.1:8500
REST ?= 127.0.0.1:8501
conformance: setup  ## Check that a server answers as TensorFlow Serving does: make conformance TARGET=host:8500 REST=host:8501
	@TARGET=$(TARGET) REST=$(REST) $(BIN)/python -m pytest tests/test_serving_conformance*.py

clean:  ## Remove what the demo, the tests and the documentation wrote
	rm -rf runs/demo export/demo site .pytest_cache .ruff_cache
