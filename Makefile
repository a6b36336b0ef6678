# `make` lists the targets. Everything runs inside .venv, which `make setup` fills from the lock file.
PYTHON ?= $(shell for p in python3.11 python3.10 python3 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 12))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
LOCK ?= requirements.lock
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup lock lint format test test-slow test-large conformance demo web docs clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

setup: .venv/.installed  ## Create .venv and install the locked packages (GPU: make setup LOCK=requirements-gpu.lock)

.venv/.installed: $(LOCK) pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 or 3.11 found; install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing the packages of $(LOCK) into .venv (some minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --require-hashes --requirement $(LOCK)
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

lock:  ## Resolve the lock files anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
		--extra beam --extra dev --extra docs --extra parquet --extra report --extra screen --extra web pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
		--extra beam --extra dev --extra docs --extra parquet --extra report --extra screen --extra web --extra gpu pyproject.toml --constraint requirements.lock --output-file requirements-gpu.lock

demo: setup  ## The whole path on toy images, in a few minutes
	@$(BIN)/python tools/demo.py

EXPORT ?= export/demo
HOST ?= 127.0.0.1
PORT ?= 8080
web: setup  ## A model in the browser: make web EXPORT=export/mine SAMPLES=photos
	@$(BIN)/python -m tools.web --export="$(EXPORT)" --host="$(HOST)" --port="$(PORT)" --samples="$(SAMPLES)"

docs: setup  ## The documentation as a site, which needs no network: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "the documentation is site/index.html"

lint: setup  ## Check format, rules, import direction and links
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/python -m pytest tests/test_layout.py tests/test_links.py

format: setup  ## Format the code and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# A process on each core, each with some files of tests, which share what their fixtures make.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: setup  ## Run the tests (some minutes on two cores)
	@$(PYTEST)

test-slow: setup  ## Run the tests that take more than some seconds each
	@$(PYTEST) -m "slow and not large"

test-large: setup  ## Run the tests that take minutes or much memory
	@$(PYTEST) -m large

TARGET ?= 127.0.0.1:8500
conformance: setup  ## Check that a server answers as TensorFlow Serving does: make conformance TARGET=host:port
	@TARGET=$(TARGET) $(BIN)/python -m pytest tests/test_serving_conformance.py

clean:  ## Remove what the demo, the tests and the documentation wrote
	rm -rf runs/demo records/demo records/demo-images export/demo site .pytest_cache .ruff_cache
