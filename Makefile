PYTHON ?= .venv/bin/python
BIN := $(dir $(PYTHON))

.PHONY: lint format test bench profile fuzz soak schema

lint:            ## style, types, floors
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)mypy
	$(BIN)lint-imports

format:          ## rewrite in our style
	$(BIN)ruff check --fix .
	$(BIN)ruff format .

test:            ## everything, as CI runs it
	./test

bench:           ## measure, print beside the budgets, write docs/benchmarks.md
	$(PYTHON) -m bench

profile:         ## flame graph of the API server under load, in bench/out/
	$(PYTHON) -m bench.profile

fuzz:            ## a minute of nonsense for every decoder and the request line
	SAMPAN_EXAMPLES=1600 $(PYTHON) -m pytest -q tests/apiserver/test_apiserver_*fuzz*.py

soak:            ## the long forms of the fault, leak and fuzz tests
	SAMPAN_SOAK=1 ./test --timeout=3600

schema:          ## regenerate sampan/kube/schema from PyPI kubernetes-validate
	$(PYTHON) tools/generate_schema.py
