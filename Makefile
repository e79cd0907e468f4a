# Two commands do all set-up: `make demo` and `make test`. Everything is idempotent.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
SOURCES := multifd bench tests

.PHONY: help setup demo test interop check format lint types bench clean

help:
	@echo "make demo    move 1 GiB of memory that is being written, and two devices, between two processes"
	@echo "make test    run all tests"
	@echo "make interop all rows against stock QEMUs, of which \`make test\` runs a handful"
	@echo "make check   format, lint, types (what CI asks for)"
	@echo "make bench   throughput over loopback, beside a C program, iperf3 and QEMU where they can be had (minutes)"
	@echo "make clean   remove what the others made"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "multifd needs Python 3.11 or later: set PYTHON=/path/to/python3.11")'
	@echo "setting up $(VENV): about half a minute, the first time only"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing multifd and what it needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/multifd demo

test: setup
	@tests/setup-debian.sh
	@$(BIN)/python -m pytest

interop: setup
	@tests/setup-debian.sh
	@$(BIN)/python -m pytest -m 'interop or not interop' tests/interop

check: setup
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix $(SOURCES)

bench: setup
	@$(BIN)/python -m bench standard

clean:
	rm -rf $(VENV) .qemu build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
