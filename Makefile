# `make train` and `make test` do all set-up themselves, in the virtual environment .venv. `make help` lists the rest.

PYTHON ?= python3
TORCH_VERSION := 2.13.0
# Further arguments of pip for torch alone, e.g. --index-url https://download.pytorch.org/whl/cpu
PIP_TORCH_ARGS ?=
# Where `make train` writes; the default is the first of runs/digits, runs/digits-2, ... that is free.
OUT ?=
TRAIN_ARGS ?= --data digits
BENCH_ARGS ?=
# Of `make wheel-check`: which python with which torch.
WHEEL_CHECKS ?= $(PYTHON):$(TORCH_VERSION) $(PYTHON):2.10.0
PYTEST_WORKERS ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
PIP := $(BIN)/python -m pip --disable-pip-version-check
CXX_SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
CXX_TEST_SOURCES := $(shell find tests -name '*.cpp' -o -name '*.h' -o -name '*.cu')

.DELETE_ON_ERROR:
.PHONY: help build train test lint format sanitize neon coverage bench gpu-report clients wheel wheel-check clean \
	distclean

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

# pip would take along what lies in build/lib.*. The libraries of torch are those of the torch that is installed; glibc's and libstdc++'s are the system's.
wheel: build  ## build a wheel into dist/, tagged with the oldest glibc that it runs on
	rm -rf build/wheel build/lib.* build/bdist.* dist/lenet_ext-*.whl
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair --exclude 'libtorch*.so' --wheel-dir dist build/wheel/*.whl
	$(BIN)/python -m auditwheel show dist/*.whl

wheel-check: wheel  ## install the wheel beside several versions of torch and run lenet-ext check there
	$(BIN)/python scripts/check_wheel.py --wheels dist $(WHEEL_CHECKS) -- $(PIP_TORCH_ARGS)

clients: wheel  ## run our layers in Opacus, skorch, Lightning, Captum and ONNX Runtime, in .venv-clients
	$(PYTHON) -m venv --clear $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install -q $(PIP_TORCH_ARGS) torch==$(TORCH_VERSION)
	$(CLIENTS)/bin/python -m pip install -q -r requirements-clients.txt dist/*.whl
	OMP_NUM_THREADS=1 $(CLIENTS)/bin/pytest tests/clients

clean:  ## remove what was compiled
	rm -rf build dist lenet_ext/*.so *.egg-info $(VENV)/.built
	find . -name '.venv*' -prune -o -name __pycache__ -type d -print | xargs rm -rf

distclean: clean  ## remove .venv and the tools' caches as well
	rm -rf $(VENV) $(CLIENTS) .hypothesis .mypy_cache .pytest_cache .ruff_cache
