# Two commands do everything on a fresh machine: `make reproduce` and `make test`. `make help` lists the others.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PROFILE ?= embedded
LAB_ARGS ?=
JOBS ?=
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.setup-stamp
FIGURES = paper_figures/$(basename $(notdir $(PROFILE)))
# One process with a thread per core, at most 4 (our choice: the models are small).
CORES := $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$((n > 4 ? 4 : n)))
export OMP_NUM_THREADS ?= $(CORES)

.PHONY: help setup reproduce test check benchmark export clean lab docs tiny

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(STAMP) ## create .venv with the pinned packages, once

$(STAMP): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@start=$$SECONDS; echo "set-up: installing into $(VENV), about 6 GB with PyTorch"; \
	$(PY) -m pip install --quiet --upgrade pip; \
	if $(PY) -m pip install --quiet uv && $(PY) -m uv pip install --python $(PY) --compile-bytecode -c constraints.txt -e '.[dev]'; \
	then :; else echo "set-up: uv did not do it, now with pip"; $(PY) -m pip install -c constraints.txt -e '.[dev]'; fi; \
	touch $@; echo "set-up: done in $$((SECONDS - start)) s"

reproduce: $(STAMP) ## make the tables and figures that are not up to date (PROFILE=embedded, JOBS=notebooks at a time, ARGS=further options)
	@start=$$SECONDS; status=0; $(VENV)/bin/iqa-repro reproduce --profile $(PROFILE) $(if $(JOBS),--jobs $(JOBS)) $(ARGS) || status=$$?; \
	echo "make reproduce: $$((SECONDS - start)) s, exit status $$status; tables and figures in $(FIGURES)/"; \
	exit $$status

test: $(STAMP) ## export and clean checks, ruff, nbdev_test, pytest, every experiment with smoke=True
	@$(PY) tools/check.py --all

check: $(STAMP) ## types, lint, export, and in two minutes the notebooks and tests that a change reaches (BASE=revision, BUDGET=seconds)
	@$(PY) tools/check.py

benchmark: $(STAMP) ## measure the savings of speed and memory as ratios
	$(PY) -c 'from pathlib import Path; from iqa_repro.batch.execution import run_notebook as run; [run(p, f"$(FIGURES)/benchmark/{p.stem}/run.ipynb", {"profile": "$(PROFILE)"}, True) for p in sorted(Path("nbs/benchmarks").glob("*.ipynb"))]'

export: $(STAMP) ## write iqa_repro/ from the notebooks
	$(VENV)/bin/nbdev_export

clean: $(STAMP) ## strip outputs and stray metadata from the notebooks
	$(PY) tools/notebooks.py clean

lab: $(STAMP) ## open JupyterLab at nbs/, with the index notebook
	$(PY) -m jupyterlab nbs --LabApp.default_url=/lab/tree/index.ipynb $(LAB_ARGS)

docs: $(STAMP) ## make the documentation site in _docs/ (JOBS=notebooks at a time; packages of '.[docs]')
	$(PY) tools/docs.py $(if $(JOBS),--jobs $(JOBS))

tiny: $(STAMP) ## train the tiny CLIP anew and replace its shipped weights
	$(PY) -m iqa_repro.clip.tiny
