PYTHON ?= python3
BIN := .venv/bin
PUBLIC_DATA ?= ../shared/data/train

.PHONY: demo test check train format clean

demo: .venv/.run            ## route real sample conversations with the shipped bundle, offline
	@$(BIN)/pointsman demo

test: .venv/.test           ## everything that can fail
	@$(BIN)/python -m pytest -q

check: .venv/.test          ## format, lint, types, import contracts, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory test

train: .venv/.test          ## make the shipped bundle again, from our own data and the public corpora in PUBLIC_DATA
	$(BIN)/pointsman train --recipe training/recipe.toml --data training/data --data $(PUBLIC_DATA) --output runs/bundles

format: .venv/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist *.egg-info

.venv/.run: pyproject.toml constraints.txt
	@echo "installing into .venv (the first time takes a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,offline]'
	@touch $@

.venv/.test: .venv/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,offline,zh,test]'
	@touch $@
