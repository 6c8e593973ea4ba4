# Two commands for newcomers: `make demo` and `make test`. Every target sets up its own virtual environment from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SEEDS ?= 300
BENCH_JSON ?=

.PHONY: help demo test test-long sim chaos mutants bench lint proto lock clean

help:
	@echo "make demo       three nodes, two workers, a real tree, two leader kills, and a proof that nothing was lost"
	@echo "make test       the test suite (about 11 minutes)"
	@echo "make test-long  everything else: crash rounds, power cut, long simulation, known-bad builds"
	@echo "make sim        the deterministic simulation; SEEDS=3000 for the full run, SEED=n for one"
	@echo "make mutants    recorded mistakes that the marked tests must catch: 40 drawn; IDS=CL-2,WS-13 names them, SEED=n draws again"
	@echo "make chaos      ten minutes of faults on 3 and 5 real nodes, judged by checkers (needs root); SEED=n for one seed"
	@echo "make bench      figures, beside etcd where it is installed; BENCH_JSON=path for one JSON object"
	@echo "make lint       ruff, mypy, import contracts, generated code"

$(READY): .ci/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: set PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r .ci/requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(READY)
	@PYTHONUNBUFFERED=1 $(BIN)/python -m tests.demo.run

test: $(READY)
	$(BIN)/python -m pytest -q -m "not long"

test-long: $(READY)
	$(BIN)/python -m pytest -q -m "long" --timeout=3600 -o faulthandler_timeout=3590

sim: $(READY)
	$(BIN)/python -m tests.simulation.run --seeds $(SEEDS) $(if $(SEED),--seed $(SEED))

mutants: $(READY)
	$(BIN)/python -m tests.mutants.run $(if $(IDS),--ids $(IDS) --explain,--draw $(or $(DRAW),40)) $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS))

chaos: $(READY)
	$(BIN)/python -m chaos suite $(if $(SEED),--seed $(SEED))

bench: $(READY)
	$(BIN)/hypercluster bench --against etcd $(if $(BENCH_JSON),--json-file $(BENCH_JSON))

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	$(BIN)/python .ci/gen_proto.py --check

proto: $(READY)
	$(BIN)/python .ci/gen_proto.py

lock:
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install -q pip-tools
	$(VENV)-lock/bin/pip-compile -q --extra dev --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-annotate -o .ci/requirements.lock pyproject.toml
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build
