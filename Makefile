# The two commands: `make demo` and `make test`. Both set up .venv first; the second call finds it done.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint bench docs clean

demo:
	@$(PYTHON) tools/setup.py
	@$(BIN)/sfumato demo

test:
	@$(PYTHON) tools/setup.py test
	@$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-slow:
	@$(PYTHON) tools/setup.py test
	@$(BIN)/python -m pytest -m "slow"

lint:
	@$(PYTHON) tools/setup.py test lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

bench:
	@$(PYTHON) tools/setup.py test peers
	@$(BIN)/sfumato bench

docs:
	@$(PYTHON) tools/setup.py docs
	@$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .pytest_cache .ruff_cache
