# One command each. Every target does its own set-up on a fresh Debian machine, as root.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
SETUP := .venv/.setup

.PHONY: help install lint format test test-fast test-cluster bench reliability demo generate lock clean

help:  ## Show these lines
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: $(SETUP)  ## Make .venv and install what is missing on the machine

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -m venv .venv 2>/dev/null || { apt-get update -q && apt-get install -y -q python3 python3-venv && $(PYTHON) -m venv .venv; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(SETUP): $(STAMP)
	$(BIN)/navarch setup --ingress
	@touch $@

lint: $(STAMP)  ## Formatting, lint rules, types, import contract
	$(BIN)/ruff format --check src tests tools bench examples
	$(BIN)/ruff check src tests tools bench examples
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## Put the code into the project's format
	$(BIN)/ruff check --fix src tests tools bench examples
	$(BIN)/ruff format src tests tools bench examples

# Many tests watch real processes on a machine that others may load: what failed is tried once more,
# alone, and fails for good if it fails again.
AGAIN := $(BIN)/python -P tools/again.py

FAST := tests/unit tests/equivalence tests/convergence tests/api tests/store tests/reliability tests/scale tests/clients

test-fast: $(STAMP)  ## The tests that need neither root nor containers
	$(BIN)/pytest --cache-clear -n 3 $(FAST) || $(AGAIN) $(FAST)

test-cluster: $(SETUP)  ## Real clusters with real containers
	$(BIN)/pytest --cache-clear -n 2 --dist loadfile tests/cluster || $(AGAIN) tests/cluster

test: lint test-fast test-cluster  ## Everything

bench: $(SETUP)  ## Print the figures of the budgets (AGAINST=KUBECONFIG: beside another server's)
	$(BIN)/python -m bench $(if $(AGAINST),--against $(AGAINST))

reliability: $(STAMP)  ## Try what is promised of the data, with the full numbers (an hour and a half)
	$(BIN)/python -m bench.reliability

demo: $(SETUP)  ## A machine-learning model served by a real cluster
	$(BIN)/python examples/ml/demo.py

generate: $(STAMP)  ## Make the generated files anew
	$(BIN)/python tools/generate_types.py
	$(BIN)/python tools/generate_schema.py

lock: $(STAMP)  ## Write requirements.lock anew from pyproject.toml
	$(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv
	.venv-lock/bin/uv pip compile --universal --python-version 3.11 --group dev pyproject.toml --no-annotate --no-header -q -o requirements.lock
	rm -rf .venv-lock

clean:  ## Remove what the other targets made
	rm -rf .venv .cache build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
