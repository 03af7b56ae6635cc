# Everything is installed into .venv; a second run of any target starts at once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Taken as they are typed: $(value) keeps a dollar sign in a prompt, and the recipe reads them from its environment, so
# that no quote in them reaches the shell.
PROMPT ?= a penguin on a red background
OUT ?=
override PROMPT := $(value PROMPT)
override OUT := $(value OUT)
export PROMPT OUT

# An index to take torch from, for machines without a GPU: https://download.pytorch.org/whl/cpu (a smaller download).
TORCH_INDEX ?=

ADDONS := docs/inputs/addons
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --constraint constraints.txt
# The first of these that runs, has venv and is new enough. `python3` first: it is the one that a machine is set up for.
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(shell \
	$(python) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(python))))

.PHONY: help setup image serve test lint docs embedded peers clean

help: ## show this list
	@echo "diafano: Stable Diffusion that you can see through"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  make image PROMPT="two apples on a blue background" OUT=apples.png'
	@echo '  TORCH_INDEX=https://download.pytorch.org/whl/cpu keeps the download small where there is no GPU'

setup: $(VENV)/.package ## install diafano into .venv (torch first, so that nothing replaces its build)

image: $(VENV)/.package ## draw PROMPT into the file OUT (or picture.png, picture-2.png, ...) with the model that ships with the package
	@$(BIN)/diafano generate $${OUT:+--output "$$OUT"} -- "$$PROMPT"

test: lint ## check style and types, then run every test
	$(BIN)/python -m pytest

lint: $(VENV)/.dev ## check style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(VENV)/.serve ## draw for clients and in the browser, at http://localhost:7860
	@$(BIN)/diafano serve

docs: $(VENV)/.package $(ADDONS)/sepia $(ADDONS)/silhouettes.safetensors ## draw all pictures in docs again, with the commands printed above them, and write what scripts write
	$(BIN)/python docs/scripts/settings.py
	$(BIN)/python docs/scripts/draw.py
	$(BIN)/python docs/scripts/pictures.py
	$(BIN)/python docs/scripts/autoencoder.py
	$(BIN)/python docs/scripts/samplers.py
	$(BIN)/python docs/scripts/house.py

# Add-ons that docs/addons.md draws with and that are too large to be kept here. The ControlNet takes five minutes
# on 2 CPU cores; where it was interrupted, the same command goes on.
$(ADDONS)/sepia: | $(VENV)/.package
	$(BIN)/python docs/scripts/train_addons.py sepia

$(ADDONS)/silhouettes.safetensors: | $(VENV)/.package
	$(BIN)/python docs/scripts/train_controlnet.py

embedded: $(VENV)/.train ## train the next embedded model into runs/embedded (its autoencoder is there: recipes/embedded/autoencoder)
	$(BIN)/diafano train text --config recipes/embedded/text.toml
	$(BIN)/diafano train unet --config recipes/embedded/unet.toml
	$(BIN)/diafano train preview --config recipes/embedded/preview.toml
	$(BIN)/diafano convert runs/embedded/unet/model runs/embedded/model --dtype float16 --shard 15
	$(BIN)/diafano evaluate --model runs/embedded/model --grid runs/embedded/evaluation.png

# Beside .venv, a folder each, which only that program's process sees: they want versions of their own of what they use.
# stable-diffusion.cpp is compiled here, for this processor, which takes cmake, a C++ compiler and half an hour.
peers: $(VENV)/.dev ## install the programs that benchmarks/peers.py compares with, into .peers
	test -d .peers/openvino || $(PIP) --no-deps --target .peers/openvino openvino openvino-telemetry
	test -d .peers/stable_diffusion_cpp || $(PIP) --no-deps --target .peers/stable_diffusion_cpp \
	    stable-diffusion-cpp-python || echo "stable-diffusion.cpp is left out" >&2

clean: ## remove .venv and everything else that make and the tools made
	rm -rf $(VENV) .peers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each is newer than what it was made from, so make knows when nothing is to be done.

$(VENV)/.torch: constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with its venv module is needed (Debian: apt install python3-venv); or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.package: $(VENV)/.torch pyproject.toml
	$(PIP) --editable .
	@touch $@

$(VENV)/.train: $(VENV)/.package
	$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/.serve: $(VENV)/.package
	$(PIP) --editable '.[serve]'
	@touch $@

# A browser for the tests of the page, where Debian's package is to be had without asking; without it they are skipped.
$(VENV)/.dev: $(VENV)/.package
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    { apt-get install -qq -y chromium >/dev/null 2>&1 || { apt-get update -qq && apt-get install -qq -y chromium; } >/dev/null 2>&1; }; } || \
	    echo "chromium is not there: the tests of the page are skipped (apt install chromium)" >&2
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps k-diffusion lycoris-lora einops toml spandrel  # oracles too; of their many dependencies the tests need no others
	@touch $@
