# Everything runs in .venv, which is made once and again when its inputs change.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs

help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /: /'

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "nobrainer needs Python 3.11 or newer, but $(PYTHON) is" \
	      "$$($(PYTHON) --version 2>&1): install it, or name one with" \
	      "'make PYTHON=/path/to/python3.11 ...'" >&2; exit 1; }; \
	  $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }; }
	@echo "Installing into .venv (about a minute, longer on a slow network)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED) ## train, predict and draw on embedded data, into demo-output/
	$(BIN)/nobrainer demo --output-dir demo-output --overwrite

test: lint $(INSTALLED) ## lint, types, pages, then every test
	site=$$(mktemp -d) && trap 'rm -rf $$site' EXIT && \
	  $(BIN)/mkdocs build --strict --quiet --site-dir $$site
	$(BIN)/pytest -n 2

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(INSTALLED) ## build the pages into site/
	$(BIN)/mkdocs build --strict
