# Two commands do everything on a machine with Python (3.10 or newer) and a C++ compiler:
#
#   make run     installs Eventide into .venv and lets the bundled model tell a story
#   make test    installs what the tests need as well, and runs them
#
# others: make check (lint, types, layers) · make sanitize (the C++ workers under ThreadSanitizer and AddressSanitizer)
#         make package (sdist and wheel, installed into a clean environment) · make bench (speed beside other programs) · make clean
# COVERAGE counts lines as well, which takes a third longer, and fails below so many per cent: make test COVERAGE=85
# PYTEST_ARGS go to pytest: make test PYTEST_ARGS='-n 0 -x'

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS := $(shell nproc 2>/dev/null || echo 2)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# where it is set, every process of the tests would compile torch's Python again: 3 seconds
unexport PYTHONDONTWRITEBYTECODE

# the extension is built again when any of these changes; Python files are used where they stand
NATIVE := pyproject.toml $(shell find native src/eventide/device src/eventide/ops -type f -not -path '*/__pycache__/*' 2>/dev/null)

SANITIZED := tests/backends/test_sanitizers.py
COUNTED := $(if $(COVERAGE),--cov=src/eventide --cov-report=term --cov-fail-under=$(COVERAGE))

.PHONY: run test check sanitize package build bench clean

run: $(VENV)/installed
	@$(BIN)/eventide generate eventide-tiny "Once upon a time" --max-new-tokens 120 --seed 3

# a test for each core: threads of NumPy's and torch's would take them from each other, and starting them is half of NumPy's import
test sanitize: export OPENBLAS_NUM_THREADS := 1
test sanitize: export OMP_NUM_THREADS := 1

# types are looked at beside the tests; files with long tests come first (tests/conftest.py)
test: $(VENV)/tested
	$(BIN)/ruff check .
	@$(BIN)/mypy & types=$$!; \
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore=$(SANITIZED) $(COUNTED) --durations=15 --timeout=900 $(PYTEST_ARGS); tests=$$?; \
	wait $$types && exit $$tests

check: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/mypy

sanitize: $(VENV)/tested
	$(BIN)/python -m pytest -q $(SANITIZED) --timeout=900 $(PYTEST_ARGS)

package: $(VENV)/tested
	$(BIN)/python -m pytest -q tests/package --package --timeout=600

# the C++ extension alone, into src/: for work on the workers and operators
build: $(VENV)/created
	@$(BIN)/pip install --quiet nanobind cmake ninja
	@$(BIN)/cmake -S native -B build/dev -G Ninja -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DCMAKE_LIBRARY_OUTPUT_DIRECTORY=$(abspath src/eventide) --log-level=WARNING
	@$(BIN)/cmake --build build/dev

bench: $(VENV)/installed
	$(BIN)/python benchmarks/cpu.py --help

$(VENV)/created: tools/check_machine.sh
	@sh tools/check_machine.sh $(PYTHON)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/created $(NATIVE)
	@echo "installing Eventide into $(VENV) (compiles the CPU workers, about a minute) ..."
	@$(BIN)/pip install --quiet --editable '.[bench]'
	@touch $@

# packages are fetched while the extension compiles; what every process of the tests imports of them is compiled once, here
$(VENV)/tested: $(VENV)/created $(NATIVE)
	@echo "installing Eventide and what its tests need into $(VENV) (a minute or more) ..."
	@$(BIN)/python tools/requirements.py test > $(VENV)/requirements.txt
	@{ $(BIN)/pip install --quiet --no-compile --requirement $(VENV)/requirements.txt && \
	$(BIN)/python -c 'import tests.checkpoints'; } & packages=$$!; \
	$(BIN)/pip install --quiet --no-deps --editable .; built=$$?; wait $$packages && exit $$built
	@touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .coverage
