# Each target starts from a machine that has only Python >= 3.11 and make.
PYTHON ?= python3
# Processes that share the tests, each with workers of its own: about 9 GiB of memory apiece.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test lint types bench gpu family clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Judges of the tests that cannot be installed beside the rest; only `install` and `test` need them.
$(VENV)/.peers: $(VENV)/.installed tests/fetch_peers.py
	$(BIN)/python -m tests.fetch_peers
	@touch $@

install: $(VENV)/.peers

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py --output demo

test: install lint types
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/resnet-parity bench resnet50 --form plain,inference
	$(BIN)/python benchmarks/startup.py

# On a machine that has its frameworks already: nothing is installed, nothing downloaded.
gpu:
	PYTHONPATH=. $(PYTHON) benchmarks/accelerator.py --device gpu

family: $(VENV)/.installed
	$(BIN)/python benchmarks/family.py --output docs/family.png

clean:
	rm -rf $(VENV) build *.egg-info demo
