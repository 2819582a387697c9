# The verbs of the project. Each sets up what it needs first: the first run builds tools for some minutes, later ones
# find everything in ${CANARY_CACHE:-~/.cache/canary}. `make test ARGS='-k gateway -x'` hands words on.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=
# Byte code halves every start of Python, and each `pulumi up` has five: also where the environment forbids it.
export PYTHONDONTWRITEBYTECODE :=
SOURCES := *.py components core policies rollout lab tests

.DEFAULT_GOAL := help
.PHONY: help setup setup-python demo test check style lab lab-down lab-status bench golden lock

help:
	@echo 'make demo        the main job: a canary climbs, is promoted; the next one is reverted'
	@echo 'make test        every test, lab included'
	@echo 'make check       format, lint, types, import layers, line counts (`make style`) and unit tests: no lab'
	@echo 'make lab         start the lab; lab-down stops it, lab-status shows it'
	@echo 'make bench       benchmarks'
	@echo 'make golden      renew the golden files'
	@echo 'make lock        renew requirements.txt from requirements.in (needs uv)'

setup:
	@$(PYTHON) -m lab.setup

setup-python:
	@$(PYTHON) -m lab.setup --python-only

demo: setup
	@$(PY) -m lab.demo $(ARGS)

test: setup
	@$(PY) -m pytest $(ARGS)

style: setup-python
	@echo 'format'; $(PY) -m ruff format --check --quiet . || { $(PY) -m ruff format --check .; exit 1; }
	@echo 'lint'; $(PY) -m ruff check --quiet .
	@echo 'types'; $(PY) -m mypy --strict $(SOURCES)
	@echo 'import layers'; .venv/bin/lint-imports --no-cache
	@$(PY) -m lab.linecount

check: style
	@echo 'unit tests'; $(PY) -m pytest -q -n auto -m 'not lab' $(ARGS)

lab: setup
	@$(PY) -m lab up $(ARGS)

lab-down: setup-python
	@$(PY) -m lab down $(ARGS)

lab-status: setup-python
	@$(PY) -m lab status $(ARGS)

bench: setup
	@$(PY) -m lab.bench $(ARGS)

golden: setup-python
	@$(PY) -m pytest tests/unit/test_golden.py tests/unit/test_check.py --update-golden $(ARGS)
	@$(PY) -m pytest tests/unit/test_policies.py -k document --update-golden

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		requirements.in -o requirements.txt
	cd lab/toolchain/ministack && uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		requirements.in -o requirements.txt
