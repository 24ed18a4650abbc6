# `make train` and `make test` do all set-up themselves, in the virtual environment .venv. `make help` lists the rest.

PYTHON ?= python3
TORCH_VERSION := 2.13.0
# Further arguments of pip for torch alone, e.g. --index-url https://download.pytorch.org/whl/cpu
PIP_TORCH_ARGS ?=
# Where `make train` writes; the default is the first of runs/digits, runs/digits-2, ... that is free.
OUT ?=
TRAIN_ARGS ?= --data digits
BENCH_ARGS ?=
# Of `make wheel`: the pythons to build for; by default python3.10 to python3.14, as far as they are there.
WHEEL_PYTHONS ?=
# Of `make wheel-check`: which python with which torch.
WHEEL_CHECKS ?= $(PYTHON):$(TORCH_VERSION) $(PYTHON):2.10.0
PYTEST_WORKERS ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD_WHEELS = $(PYTHON) scripts/build_wheels.py --wheels dist --torch $(TORCH_VERSION)
CXX_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
CXX_TEST_SOURCES := $(shell find tests -name '*.cpp' -o -name '*.h' -o -name '*.cu')

.DELETE_ON_ERROR:
.PHONY: help build train test lint format sanitize neon coverage bench gpu-report docs clients wheel wheel-check \
	clean distclean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

# Stamps: each is newer than what it was made from once its step is done.
$(VENV)/.created: scripts/check_prerequisites.sh
	@sh $< $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.created
	$(PIP) install $(PIP_TORCH_ARGS) torch==$(TORCH_VERSION)
	@touch $@

$(VENV)/.requirements: requirements-dev.txt $(VENV)/.torch
	$(PIP) install -q -r requirements-dev.txt
	@touch $@

$(VENV)/.built: $(VENV)/.requirements setup.py pyproject.toml lenet_ext/_version.py $(CXX_SOURCES)
	@echo "compiling lenet_ext._C: a minute or two the first time"
	$(PIP) install -q --no-build-isolation -e '.[cli,data,plot,test]'
	@touch $@

build: $(VENV)/.built  ## set up .venv and compile the package into it, editable

train: build  ## train a LeNet in the fused engine on real digits beside native torch
	@out="$(OUT)"; count=2; \
	if [ -z "$$out" ]; then \
		out=runs/digits; \
		while [ -e "$$out" ]; do out=runs/digits-$$count; count=$$((count + 1)); done; \
	fi; \
	set -x; $(BIN)/lenet-ext train $(TRAIN_ARGS) --out "$$out"

test: build  ## run the test-suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

lint: build  ## check style, types and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@$(BIN)/clang-format --version
	@$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES) $(CXX_TEST_SOURCES)

format: build  ## format all sources
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_SOURCES) $(CXX_TEST_SOURCES)

sanitize: build  ## fuzz and parity under AddressSanitizer and UBSan; threads and memory of the kernels
	PYTHONPATH=tests/helpers $(BIN)/python tests/build/sanitizers/run.py

neon: $(VENV)/.requirements  ## the NEON wrappers and the kernels of aarch64 under QEMU, where that is installed
	PYTHONPATH=tests/helpers $(BIN)/python scripts/neon.py

coverage: build  ## which lines of csrc/ and lenet_ext/ the tests run
	$(BIN)/python scripts/coverage.py

bench: build  ## time the kernels beside native torch
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

gpu-report:  ## build, test and time the CUDA kernels on a GPU with the python3 at hand; OUT=folder
	$(PYTHON) scripts/gpu_report.py --out "$(or $(OUT),runs/gpu-report)"

# The site needs neither torch nor the compiled module: docstrings are read from the sources.
$(VENV)/.docs: docs/requirements.txt requirements-dev.txt $(VENV)/.created
	$(PIP) install -q -r docs/requirements.txt
	@touch $@

docs: $(VENV)/.docs  ## build the site of the documents into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel:  ## build a wheel for each python3.10 to python3.14 at hand into dist/
	$(BUILD_WHEELS) $(WHEEL_PYTHONS) -- $(PIP_TORCH_ARGS)

# It builds what it misses.
wheel-check:  ## install wheels beside several versions of torch and run lenet-ext check there
	rm -f dist/lenet_ext-*.whl
	$(PYTHON) scripts/check_wheel.py --wheels dist $(WHEEL_CHECKS) -- $(PIP_TORCH_ARGS)

clients:  ## run our layers in Opacus, skorch, Lightning, Captum, Flower and ONNX Runtime, sweeps on Ray, in .venv-clients
	$(BUILD_WHEELS) $(PYTHON) -- $(PIP_TORCH_ARGS)
	$(PYTHON) -m venv --clear $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install -q $(PIP_TORCH_ARGS) torch==$(TORCH_VERSION)
	$(CLIENTS)/bin/python -m pip install -q -r requirements-clients.txt dist/*.whl
	OMP_NUM_THREADS=1 $(CLIENTS)/bin/pytest tests/clients

clean:  ## remove what was compiled
	rm -rf build dist lenet_ext/*.so *.egg-info $(VENV)/.built
	find . -name '.venv*' -prune -o -name __pycache__ -type d -print | xargs rm -rf

distclean: clean  ## remove .venv and the tools' caches as well
	rm -rf $(VENV) $(CLIENTS) .hypothesis .mypy_cache .pytest_cache .ruff_cache
