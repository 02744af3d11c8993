# The commands of README.md. `make install` needs Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# Tests run in several processes, file by file, so that a file's tests share one gateway: in one process per core where
# they compute (one more where some wait), in three per core where most wait.
CORES   := $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)))')
WORKERS := $(shell expr 3 '*' $(CORES))
PYTEST  := $(BIN)/python -m pytest -q --dist loadfile --no-loadscope-reorder

LOCK   := $(VENV)/lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
          --custom-compile-command 'make lock'

# Tests start a thousand processes; without kept bytecode each would compile the gateway again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install run check test test-all lint format bench bench-record bench-store soak chaos rehearsal fuzz lock audit docs clean

install: $(VENV)/.installed

run: install
	@$(BIN)/gateway demo -c gateway.yaml

# At each change, a minute on two cores: the linters, and every test that starts no process and no browser; it is an
# error if one of these starts any. Properties are tried with a few examples. Some parts compute while others wait; each
# is a process with some of the rooms, and the last one has all that the others do not have.
PARTS          := waits server client store delivery traffic policy settings commands rest
WAITS          := tests/http/server/test_connections.py tests/http/server/test_deadlines.py
PART_waits     := $(WAITS)
PART_server    := tests/http/server $(addprefix --ignore ,$(WAITS))
PART_client    := tests/http --ignore tests/http/server
PART_store     := tests/store
PART_delivery  := tests/proxy tests/end_to_end
PART_traffic   := tests/recording tests/telemetry tests/upstreams
PART_policy    := tests/policy
PART_settings  := tests/config tests/model
PART_commands  := tests/admin tests/cli
OTHERS         := $(filter-out rest,$(PARTS))
PART_rest      := tests $(addprefix --ignore ,$(sort $(filter tests/%,$(foreach part,$(OTHERS),$(PART_$(part))))))
check: $(VENV)/.test-tools
	@$(MAKE) --no-print-directory --keep-going --output-sync --jobs $(words lint $(PARTS)) lint $(PARTS:%=check-%)

check-%:
	@HYPOTHESIS_PROFILE=dev $(BIN)/python -m pytest -q -m "not process and not slow" $(PART_$*)

# Before a change is shared, ten minutes on two cores: all tests but the slow ones. TESTS=tests/proxy runs only those, all
# of them, one after the other.
test: $(VENV)/.test-tools
	@tests/tools/install
	@HYPOTHESIS_PROFILE=ci $(if $(TESTS),$(BIN)/python -m pytest $(TESTS),$(PYTEST) -n $(WORKERS) -m "not slow")

# Before a release, up to fifty minutes: what `make test` leaves out. These are the slow tests (chaos, the rehearsal,
# the container, the machine that systemd runs), one after the other because they load the machine themselves; then
# every property again, with ten times the examples. `make test test-all` is everything.
test-all: $(VENV)/.test-tools
	@tests/tools/install
	@$(BIN)/python -m pytest -q -m slow
	@HYPOTHESIS_PROFILE=thorough $(PYTEST) -n $(CORES) -m thorough

lint: $(VENV)/.test-tools
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.test-tools
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Seven minutes, on a machine that does nothing else; BENCH="--rounds 2 --seconds 2 --only keepalive-16" for less.
# All contenders in Python run on the distribution's, as deployments do: it is built with profile-guided optimisation,
# and what a developer has built without that takes a sixth more CPU time.
BENCH_PYTHON ?= $(firstword $(wildcard /usr/bin/python3) $(PYTHON))
bench: $(VENV)/bench/.installed
	@$(VENV)/bench/bin/python -m tests.bench --gateway $(VENV)/bench/bin/gateway $(BENCH)

# What the spool and the history cost, on a machine that does nothing else; half an hour and 15 GB of disk for both
# engines. STORE="--rows 1000 --seconds 1 --rounds 1" for less, "--only recovery", "--engine sqlite postgresql".
bench-store: $(VENV)/.test-tools
	@tests/tools/install
	@$(BIN)/python -m tests.bench.store $(STORE)

# Records the CPU instructions per hook that tests/test_instructions.py holds this Python and machine to.
bench-record: $(VENV)/.test-tools
	@tests/tools/install
	@$(BIN)/python -m tests.bench.instructions --runs 3 --record

# Twenty minutes of load with faults in it; SOAK="--minutes 6" for less.
soak: $(VENV)/.test-tools
	@$(BIN)/python -m tests.soak.soak $(SOAK)

# Ten minutes of faults of all classes at once, judged hook by hook; CHAOS="--minutes 2 --seed 7" repeats a schedule.
chaos: $(VENV)/.test-tools
	@tests/tools/install
	@$(BIN)/python -m tests.chaos $(CHAOS)

# A backend is replaced, with real PHP; two minutes, prints a table; REHEARSAL="--hooks 500" for less. With SPOOL=1, PHP
# is down for a third of the time, and every call is billed all the same; four minutes, REHEARSAL="--seconds 30" for less.
rehearsal: $(VENV)/.test-tools
	@tests/tools/install
	@$(BIN)/python -m tests.rehearsal$(if $(SPOOL),.outage) $(REHEARSAL)

# Each target for FUZZ_SECONDS under atheris, in a venv of its own; what was found before is where it begins.
FUZZ_TARGETS ?= head proxy_header chunked answer hook config connect repair
FUZZ_SECONDS ?= 180
fuzz: $(VENV)/fuzz/.installed
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p $(VENV)/fuzz/corpus/$$target && \
	  $(VENV)/fuzz/bin/python -m tests.fuzz.run_fuzz $$target $(VENV)/fuzz/corpus/$$target tests/fuzz/found/$$target \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=3000 -timeout=20 -artifact_prefix=$$target- || exit 1; \
	done

# Pins every dependency with its hashes, for all platforms at once.
lock:
	@$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install -q uv==0.13.9
	@$(LOCK) pyproject.toml -o requirements.lock
	@$(LOCK) -c requirements.lock --extra otel pyproject.toml -o deploy/requirements-otel.lock
	@$(LOCK) -c requirements.lock --extra postgresql pyproject.toml -o deploy/requirements-postgresql.lock
	@$(LOCK) -c requirements.lock --extra fleet pyproject.toml -o deploy/requirements-fleet.lock
	@$(LOCK) deploy/requirements-build.in -o deploy/requirements-build.lock
	@$(LOCK) -c requirements.lock tests/requirements.in -o tests/requirements.lock
	@$(LOCK) -c requirements.lock tests/bench/requirements.in -o tests/bench/requirements.lock
	@rm -rf $(VENV)/lock

audit:
	@$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install -q pip-audit==2.9.0
	@$(VENV)/audit/bin/pip-audit --require-hashes -r deploy/requirements-otel.lock \
	  -r deploy/requirements-postgresql.lock -r deploy/requirements-fleet.lock -r deploy/requirements-build.lock

docs: install
	@$(BIN)/python -m gateway.cli.reference_docs README.md docs/*.md

clean:
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml requirements.lock | $(VENV)/bin/python
	@$(PIP) install -q --require-hashes -r requirements.lock -r deploy/requirements-build.lock
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test-tools: tests/requirements.lock $(VENV)/.installed
	@$(PIP) install -q --require-hashes -r tests/requirements.lock
	@touch $@

$(VENV)/fuzz/.installed: requirements.lock
	@$(PYTHON) -m venv $(VENV)/fuzz
	@$(VENV)/fuzz/bin/pip --disable-pip-version-check install -q --require-hashes -r requirements.lock
	@$(VENV)/fuzz/bin/pip --disable-pip-version-check install -q atheris==3.0.0
	@touch $@

$(VENV)/bench/.installed: pyproject.toml requirements.lock tests/bench/requirements.lock
	@BENCH_PYTHON=$(BENCH_PYTHON) tests/bench/install
	@$(BENCH_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(BENCH_PYTHON) is older than 3.11; name a newer one: make bench BENCH_PYTHON=python3.11"; exit 1; }
	@$(BENCH_PYTHON) -m venv $(VENV)/bench
	@$(VENV)/bench/bin/pip --disable-pip-version-check install -q --require-hashes -r requirements.lock \
	  -r deploy/requirements-build.lock -r tests/bench/requirements.lock
	@$(VENV)/bench/bin/pip --disable-pip-version-check install -q --no-deps --no-build-isolation -e .
	@touch $@
