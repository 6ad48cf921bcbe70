# Everything runs in .venv, the benchmark with other packages in .venv-bench; each is
# made once and again when its inputs change.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
BENCH_ARGS ?=
# Together these take a few seconds.
QUICK := test_architecture.py test_glossary.py test_house.py test_naming.py \
  test_reference.py test_regions.py test_volume.py data/test_preprocess.py \
  data/test_table.py inference/test_tiles.py metrics recipe

export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check lint house docs notebooks bench

help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /: /'

define make_venv
	@test -x $(@D)/bin/python || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "nobrainer needs Python 3.11 or newer, but $(PYTHON) is" \
	      "$$($(PYTHON) --version 2>&1): install it, or name one with" \
	      "'make PYTHON=/path/to/python3.11 ...'" >&2; exit 1; }; \
	  $(PYTHON) -m venv $(@D) || { rm -rf $(@D); exit 1; }; }
	@echo "Installing into $(@D) (about a minute, longer on a slow network)"
endef

$(INSTALLED): pyproject.toml constraints.txt
	$(make_venv)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(INSTALLED) ## segment, train, judge and draw on embedded data, into demo-output/
	$(BIN)/nobrainer demo --output-dir demo-output --overwrite

test: lint $(INSTALLED) ## lint, types, pages, then every test
	site=$$(mktemp -d) && trap 'rm -rf $$site' EXIT && \
	  $(BIN)/mkdocs build --strict --quiet --site-dir $$site
	$(BIN)/pytest -n 2 --dist worksteal

check: lint ## lint, types and the quickest tests, in less than a minute
	$(BIN)/pytest $(QUICK:%=tests/%)

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

house: $(INSTALLED) ## sizes of modules and functions beside their goals
	@$(BIN)/python tests/house.py

.venv-bench/.installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(make_venv)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --editable .
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --requirement benchmarks/requirements.txt
	@touch $@

bench: .venv-bench/.installed ## speed beside other packages, into bench-output/
	.venv-bench/bin/python -m benchmarks.speed $(BENCH_ARGS)

docs: $(INSTALLED) ## build the pages into site/
	$(BIN)/mkdocs build --strict

notebooks: $(INSTALLED) ## execute the tutorials, whose outputs the pages show
	$(BIN)/python tests/notebooks.py
