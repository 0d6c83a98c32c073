# `make demo` shows softpack at work, `make test` tests it; both set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SOURCES = softpack tests formats examples benchmarks

.PHONY: demo test check format vectors clean

demo: $(VENV)/.installed
	$(BIN)/softpack demo -o demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

check: $(VENV)/.installed
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy --python-version 3.10
	$(BIN)/mypy --python-version 3.13

format: $(VENV)/.installed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

vectors: $(VENV)/.installed
	$(BIN)/python formats/make_vectors.py

# torch first and by its exact version, so that pip takes the build that constraints.txt names.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(shell grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,test,check]'
	touch $@

clean:
	rm -rf $(VENV) demo
