# `make demo` shows the product, `make test` checks it; both start from a machine with Python 3.11 or newer and a C library.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= 2

.PHONY: demo test test-thorough lint types imports pytest models bench clean

$(VENV)/demo.stamp: setup.py
	$(PYTHON) -c 'import sys; sys.exit("fusec needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp setup.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/python -m bench.demo

test: $(VENV)/test.stamp lint types imports pytest

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/mypy

imports: $(VENV)/test.stamp
	$(BIN)/lint-imports

models: $(VENV)/test.stamp
	$(BIN)/python -m bench.models.fetch

pytest: $(VENV)/test.stamp models
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-thorough: $(VENV)/test.stamp lint types imports models
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --thorough --timeout 1800

bench: $(VENV)/test.stamp
	$(BIN)/python -m bench.speed

clean:
	rm -rf $(VENV) build *.egg-info
