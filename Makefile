# Everything here needs only Python >= 3.11, make and pip. The first run builds .venv; later runs reuse it.
#
#   make test ARGS="tests/unit -k digest"           a part of the suite
#   make demo ARGS="--postgres"                     the demo with a PostgreSQL server out of a wheel
#   make test PYTHON=python3.13 VENV=.venv-3.13     another Python, beside the first

PYTHON  ?= python3
VENV    ?= .venv
WORKERS ?= 2
ARGS    ?=

BIN := $(VENV)/bin
PIP  = $(BIN)/python -m pip install --quiet --progress-bar off $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PYTHONUNBUFFERED := 1

.DELETE_ON_ERROR:
.PHONY: help demo test test-lowest lint format bench clean

help:
	@echo "make demo         run a real LangGraph graph with and without agentref, kill it, resume it"
	@echo "make test         lint, types, architecture and every test"
	@echo "make test-lowest  the unit tests against the oldest dependencies that we accept"
	@echo "make lint         lint, types, architecture and documents only"
	@echo "make format       rewrite the code in the house style"
	@echo "make bench        print every measured bar"
	@echo "make clean        remove the environments and whatever tools left behind"

demo: $(VENV)/.runs $(if $(findstring --postgres,$(ARGS)),$(VENV)/.runs-postgres)
	@$(BIN)/python -m examples.demo $(ARGS)

test: $(VENV)/.tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-lowest:
	@$(MAKE) --no-print-directory test VENV=$(VENV)-lowest CONSTRAINTS=$(VENV)-lowest/lowest.txt \
		ARGS="$(or $(ARGS),tests/unit)"

lint: $(VENV)/.tests
	@$(BIN)/python -m pytest -n $(WORKERS) tests/test_house.py tests/test_public_api.py tests/test_documents.py $(ARGS)

format: $(VENV)/.tests
	@$(BIN)/python -m ruff check --fix --exit-zero --quiet .
	@$(BIN)/python -m ruff format .

bench: $(VENV)/.tests
	@$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-* build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A distribution may ship venv without ensurepip; its own pip can then fill the environment.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "agentref needs Python 3.11 or newer, and '$(PYTHON)' is" \
			"$$($(PYTHON) --version 2>&1 || true). Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Building $(VENV) (once) ..."
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || { \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@touch $@

$(VENV)/.runs: pyproject.toml | $(VENV)/.made
	@echo "Installing agentref with what the demo needs ..."
	@$(PIP) --editable '.[cli,langgraph]'
	@touch $@

$(VENV)/.runs-postgres: pyproject.toml | $(VENV)/.made
	@echo "Installing PostgreSQL, and what the demo needs for it ..."
	@$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.tests: pyproject.toml $(CONSTRAINTS) | $(VENV)/.made
	@echo "Installing agentref with what the tests need ..."
	@$(PIP) --editable '.[dev]'
	@touch $(VENV)/.runs $(VENV)/.runs-postgres $@

# Every floor of pyproject.toml, as an exact version.
$(VENV)/lowest.txt: pyproject.toml | $(VENV)/.made
	@$(BIN)/python -c 'import re, tomllib; \
		project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		extras = ("ag2", "autogen", "langgraph", "llamaindex"); \
		floors = project["dependencies"] + sum((project["optional-dependencies"][each] for each in extras), []); \
		print(*(re.sub(r">=([^,]+),.*", r"==\1", floor) for floor in floors), sep="\n")' >$@
