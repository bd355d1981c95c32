# make demo   installs wsiseg into .venv and runs it on a slide that it draws itself
# make test   installs what the tests need and runs them; SLOW=0 leaves out those that take minutes
# make lint   ruff, mypy, import-linter
# make docs   writes docs/cli.md from the commands' help
# make clean  removes caches and build products; make distclean the environment as well

PYTHON ?= python3
VENV ?= .venv
# Processes that run tests side by side.
JOBS ?= 2
SLOW ?= 1
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Its own step, and first: left to the resolver, torch brings the newest release with gigabytes of CUDA along.
TORCH := 2.13.0

.PHONY: demo test test-quick test-slow lint docs clean distclean
.DELETE_ON_ERROR:
.NOTPARALLEL:

demo: $(VENV)/.installed
	$(BIN)/wsiseg demo -o demo

test: test-quick $(if $(filter 0,$(SLOW)),,test-slow)

# A process of tests that dies ends the step at once: xdist would hand its work on, and wait for what is done already.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --max-worker-restart 0 $(PYTEST_ARGS)

test-quick: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-test
	$(PYTEST) -m slow

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed
	$(BIN)/python -m wsiseg_cli.reference > docs/cli.md

$(VENV)/.torch-$(TORCH):
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 14) else "wsiseg needs Python 3.11 to 3.13, but $(PYTHON) is %d.%d. Try: make PYTHON=python3.11" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==$(TORCH)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch-$(TORCH)
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml $(VENV)/.torch-$(TORCH)
	$(PIP) --editable '.[$*]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
