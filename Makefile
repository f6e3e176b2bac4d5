# Each target starts from a machine that has only Python >= 3.11 and make.
PYTHON ?= python3
# Processes that share the tests, each with workers of its own: about 9 GiB of memory apiece.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
ENGINES := torch,keras:tensorflow,keras:jax,keras:torch,flax
PYTEST = $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

.PHONY: install demo quick test test-all lint types test-oldest test-newest pretrained wheel bench gpu aot family notebooks docs clean

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

# What compiles for TPUs and GPUs, 390 MB, for `test-all`. It has a folder of its own: where JAX finds
# it, it looks for devices at each start and complains that there are none.
AHEAD := libtpu jax-cuda12-plugin jax-cuda12-pjrt
$(VENV)/ahead: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade \
		--target $@ $(AHEAD:%="%; platform_system == 'Linux' and platform_machine == 'x86_64'")
	@mkdir -p $@ && touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py --output demo

# What needs no framework: under a minute.
quick: $(VENV)/.installed
	$(PYTEST) --tier quick

# Every fault that is injected, on small samples, in all five engines: 30 to 40 minutes on two cores.
test: install lint types
	$(PYTEST) --tier test --engines $(ENGINES) --durations 25

# The full counts, from which the published figures come.
test-all: install $(VENV)/ahead lint types
	$(PYTEST) --tier all --engines $(ENGINES) --durations 100

# Eight nets for TPUs and GPUs that are not here, to docs/results/aot.md: hours, and it goes on where it
# stopped.
aot: $(VENV)/ahead
	PYTHONPATH=.:$(VENV)/ahead JAX_EXEC_TIME_OPTIMIZATION_EFFORT=-1 $(BIN)/python benchmarks/aot.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy

# Every dependency at its floor, and the newest of each, in environments of their own; the results go
# to docs/results/versions.md. TORCH=2.13.0 takes that release of PyTorch instead. pip gets PyTorch for
# CPUs where PIP_EXTRA_INDEX_URL names PyTorch's index of such builds.
test-oldest test-newest: test-%:
	$(PYTHON) benchmarks/versions.py $* $(if $(TORCH),--torch $(TORCH)) $(VERSIONS_OPTIONS)

# The table of published weights, from the registries of the libraries that are installed.
pretrained: $(VENV)/.peers
	$(BIN)/python -m tests.pretrained_table $(if $(TIMM_RESULTS),--timm-results $(TIMM_RESULTS))

# The built wheel, by itself: installed into an empty environment and used away from the checkout.
wheel: $(VENV)/.installed
	rm -rf build dist .venv-wheel
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-wheel/bin/python -m pip install --quiet --constraint constraints.txt \
		"$$(echo dist/*.whl)[all,examples]"
	mkdir .venv-wheel/elsewhere
	cd .venv-wheel/elsewhere && export PATH="$(CURDIR)/.venv-wheel/bin:$$PATH" && \
		python -c 'import resnet_parity as r; assert ".venv-wheel" in r.__file__, r.__file__' && \
		resnet-parity list && \
		resnet-parity check resnet20 --engines torch,flax && \
		resnet-parity report resnet20 --engines torch,flax && \
		resnet-parity train --list && \
		python $(CURDIR)/examples/demo.py --output demo

bench: $(VENV)/.installed
	$(BIN)/resnet-parity bench resnet50 --form plain,inference
	$(BIN)/python benchmarks/startup.py

# On a machine that has its frameworks already: nothing is installed, nothing downloaded.
gpu:
	PYTHONPATH=. $(PYTHON) benchmarks/accelerator.py --device gpu

family: $(VENV)/.installed
	$(BIN)/python benchmarks/family.py --output docs/family.png

# The notebooks, run anew from their sources in docs/notebooks.
$(VENV)/.notebooks: $(VENV)/.peers
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebooks]'
	@touch $@

notebooks: $(VENV)/.notebooks
	$(BIN)/python -m docs.site.notebooks

# The site, in build/site/html. It needs no framework, and has an environment of its own.
.venv-docs/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: .venv-docs/.installed
	.venv-docs/bin/python -m docs.site.pages build/site
	cd build/site && $(CURDIR)/.venv-docs/bin/zensical build --strict --clean
	.venv-docs/bin/python -m docs.site.links build/site/html

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info demo
