# Each target sets itself up: all that a fresh machine needs is Python 3.11 to 3.13 and make.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do $$p -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Plain torch on Linux brings 3 GB of CUDA; every target here runs on CPU.
READY := $(VENV)/.ready

.PHONY: demo test lint bench crash chaos statistics serving designs model clean kafka-up kafka-down

demo: $(READY)
	$(BIN)/salon demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/run.py

crash: $(READY)
	$(BIN)/python benchmarks/run.py crash

chaos: $(READY)
	$(BIN)/python benchmarks/events/campaigns.py

# Coverage and false claims of the report, then its speed; about 15 minutes on 2 cores.
statistics: $(READY)
	$(BIN)/python benchmarks/statistics/keep.py

# The engine under load on this machine's CPU, beside its rivals; about 8 minutes on 2 quiet cores.
serving: $(READY)
	$(BIN)/python benchmarks/serving/keep.py

# Bandits, grids, duels, switchbacks, positions and off-policy estimates: what they promise, simulated and over HTTP; about 15 minutes.
designs: $(READY)
	$(BIN)/python benchmarks/designs/keep.py

model: $(READY)
	$(BIN)/python -m finetune.pretrain

# Apache Kafka, data in var/kafka; needs Java 17 and Maven. BROKERS=3: three, from PORT on, in var/kafka-3.
BROKERS := 1
PORT := 9092
kafka-up kafka-down:
	@test -n "$(PYTHON)" || { echo "Salon needs Python 3.11, 3.12 or 3.13 on the PATH" >&2; exit 1; }
	$(PYTHON) deploy/local/kafka/broker.py $(@:kafka-%=%) --brokers $(BROKERS) --port $(PORT)

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Salon needs Python 3.11, 3.12 or 3.13 on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --group dev -e ".[all]"
	touch $(READY)

clean:
	rm -rf $(VENV) var salon-demo
