# README's two commands. PIP_ARGS adds options to pip, for example on Linux without an NVIDIA GPU:
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
export PYTHONHASHSEED = 0
# Tests run in two processes of one thread each; `make test WORKERS=0` runs them in this one, one after the other.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -q $(if $(filter-out 0,$(WORKERS)),-n $(WORKERS) --dist loadgroup)
# Every process of a test begins with importing: compiled modules are kept, whatever the environment says.
test test-all: export OMP_NUM_THREADS = 1
test test-all: export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-all lint clean

demo: .venv/core
	$(BIN)/jepakit pretrain lejepa --data digits --out $(or $(OUT),runs/demo-$(shell date +%Y%m%d-%H%M%S))

test: .venv/test
	$(PYTEST) -m "not slow and not gpu"

test-all: .venv/test lint test
	$(PYTEST) -m "slow and not gpu"

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core: pyproject.toml constraints.txt .venv/bin/python
	$(BIN)/pip install -q $(PIP_ARGS) -c constraints.txt -e .
	@touch $@

.venv/test: pyproject.toml constraints.txt .venv/bin/python
	$(BIN)/pip install -q $(PIP_ARGS) -c constraints.txt -e ".[test,onnx,tensorboard,datasets,worlds,graphs,parquet,hdf5,video,minigrid,lora]"
	@touch $@

clean:
	rm -rf .venv
