# `make demo` and `make test` need Python 3.10-3.13 and a network for pip, nothing else:
# the first one typed makes .venv and installs into it; later ones reuse it.
#   make PYTHON=python3.12 test     another interpreter (before .venv exists)
#   make demo DEMO_OUTPUT=output/short DEMO_ARGS='Trainer.max_epochs=2'    any value of the YAML
# `make demo` typed again goes on where it stopped, or shows the results again.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet
# Wheels only: a missing wheel is an error at once, never a compiler run.
PIP += --only-binary=:all:

CONFIG := structure_generation/configs/sfin/oc20.yaml
DEMO_OUTPUT ?= output/demo
DEMO_ARGS ?=
PYTEST_ARGS ?=
PYTHON310 ?= python3.10
UPSTREAM ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint format tables sample-data gpu-check upstream-check clean distclean

help:
	@echo 'make demo         install, train on the shipped sample, relax val_id, table and pictures'
	@echo 'make test         install, run the whole test suite'
	@echo 'make lint         ruff check and ruff format --check'
	@echo 'make format       apply both'
	@echo 'make tables       rewrite the result tables in the pages from docs/results/'
	@echo 'make sample-data  regenerate structure_generation/example_data/oc20_emt'
	@echo 'make upstream-check  try the pull requests in the released upstream (python3.10)'
	@echo 'make gpu-check    compare GPUs with the CPU, see docs/core/gpu.md; fails without a GPU'
	@echo 'make clean        remove caches and output/;  make distclean: .venv as well'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
	  echo "ppmat needs Python 3.10 to 3.13; '$(PYTHON)' is missing or another version:"; \
	  $(PYTHON) --version; echo "name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $@ install --quiet --only-binary=:all: pip setuptools; \
	else \
	  v=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  echo "'$(PYTHON)' has neither ensurepip nor pip, so it cannot fill $(VENV)."; \
	  echo "On Debian or Ubuntu: sudo apt install python$$v-venv"; \
	  false; \
	fi || { rm -rf $(VENV); exit 1; }

$(VENV)/.stamp-run: setup.py pyproject.toml | $(BIN)/python
	@echo 'Installing ppmat with CPU Paddle into $(VENV), a minute or more ...'
	$(PIP) --editable '.[cpu,test]'
	@touch $@

$(VENV)/.stamp-lint: setup.py pyproject.toml | $(VENV)/.stamp-run
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.stamp-run
	$(BIN)/python structure_generation/train.py -c $(CONFIG) --resume \
	  Trainer.output_dir=$(DEMO_OUTPUT) $(DEMO_ARGS)
	$(BIN)/python structure_generation/sample.py --mode=compute_metric \
	  --config_path=$(CONFIG) --checkpoint_path=$(DEMO_OUTPUT)/checkpoints/best.pdparams \
	  --split val_id --save_path=$(DEMO_OUTPUT)
	@echo 'Structures, scores and pictures are in $(DEMO_OUTPUT)/val_id:'
	@ls $(DEMO_OUTPUT)/val_id

test: $(VENV)/.stamp-run
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.stamp-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.stamp-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: $(VENV)/.stamp-run
	$(BIN)/python docs/tables.py

$(VENV)/.stamp-generator: setup.py pyproject.toml | $(VENV)/.stamp-run
	$(PIP) --editable '.[generator]'
	@touch $@

# The numbers are those of example_data/oc20_emt/README.md; interrupted, it goes on.
sample-data: $(VENV)/.stamp-generator
	$(BIN)/python -m benchmarks.data.oc20_emt output/oc20_emt \
	  --train 240 --val 40 --seed 0 --max-atoms 60
	cd output/oc20_emt && cp -r train val_id val_ood_ads val_ood_cat statistics.json \
	  $(CURDIR)/structure_generation/example_data/oc20_emt/

# The first time it builds an environment of Python 3.10, which takes some minutes.
#   make upstream-check UPSTREAM=PaddleMaterials PYTHON310=/usr/bin/python3.10
upstream-check: $(VENV)/.stamp-run
	$(BIN)/python contribution/check.py output/upstream --python $(PYTHON310) \
	  --results docs/results $(if $(UPSTREAM),--source $(UPSTREAM))
# The Python that has the GPU build of Paddle, not .venv, which has the CPU one.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check $(GPU_ARGS)

clean:
	rm -rf output build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
