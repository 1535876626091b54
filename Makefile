# make install   .venv with everything for demo, tests and benchmarks; .venv-clean with torch and transformers only
# make demo      the whole path on the sample data, under 10 minutes on two cores after installation
# make test      the tests
# make check     formatting, lint and types
# make bench NAME=prep [ARGS=--quick]
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install demo test check format bench clean

install: .venv/.complete .venv-clean/.complete

# torch comes first and alone: resolved together with the others, pip would fetch its CUDA build.
.venv/.complete: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "rwtrain needs Python 3.11 or newer; name one with: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt -e '.[all,dev]'
	touch $@

.venv-clean/.complete: .venv/.complete
	$(BIN)/python -m rwtrain.export.environment .venv-clean

demo: install
	$(BIN)/rwtrain demo

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

clean:
	rm -rf .venv .venv-clean .peers runs build *.egg-info
