# Every target installs what it needs: `make book` and `make test` work in a fresh clone.
#
# Settings, given on the command line:
#   PYTHON=python3.12         the interpreter for .venv (3.11 or newer)
#   PRESET=quick              the preset of notebooks/runs.yml for `book` and `publish`
#   WORKERS=2                 the processes of `test` and `test-all` (by default one per core, 8 at most)
#   UV_TORCH_BACKEND=cpu      (environment) PyTorch without CUDA: a far smaller download on Linux

PYTHON ?= python3
PRESET ?= quick
WORKERS ?= logical

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.selfsim-installed
NEEDED_KB := 7000000

.DEFAULT_GOAL := help
# The cost of a command is a prerequisite of its own and must be printed before the set-up, with `make -j` too.
.NOTPARALLEL:

# One thread a process: the processes share the cores. `worksteal` gives the waiting tests of a busy worker to an idle one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

.PHONY: help setup book publish test test-all lint format linkcheck browser epub constraints clean clean-all \
	say-setup say-book say-publish say-test say-test-all

help: ## list these targets
	@echo "selfsim: self-similarity in deep neural networks"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "The first command sets up .venv: 1 to 4 minutes, 6 GB of disk with the CUDA builds of PyTorch."
	@echo "Settings: PYTHON=python3.12, PRESET=quick, WORKERS=2."
	@echo "With UV_TORCH_BACKEND=cpu in the environment, PyTorch comes without CUDA."

book: say-book $(STAMP) ## execute the notebooks and render the book: 20 minutes, 300 MB
	@$(BIN)/selfsim book --preset $(PRESET)

publish: say-publish $(STAMP) ## execute PRESET and copy the checked chapters into book/chapters/
	@$(BIN)/selfsim book --preset $(PRESET) --publish

test: say-test $(STAMP) ## run the tests except the long ones: 4 minutes at most
	@$(PYTEST) -m "not long"

test-all: say-test-all $(STAMP) ## run every test: 30 minutes at most
	@$(PYTEST)

lint: $(STAMP) ## check the code with ruff and its types with mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## format the code and apply ruff's fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

linkcheck: $(STAMP) ## check the book's links to other sites (needs a network)
	@$(BIN)/jupyter-book build . --builder linkcheck --path-output _build/linkcheck

constraints: $(STAMP) ## update constraints.txt from pyproject.toml (needs a network)
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links --upgrade --all-extras pyproject.toml -o constraints.txt

browser: $(STAMP) ## check every page of _build/html in Chromium: 5 minutes
	@$(BIN)/python tests/browser/check_book.py _build/html

epub: $(STAMP) ## write the published book as an EPUB, _build/epub/selfsim.epub: 1 minute
	@$(BIN)/jupyter-book build . --builder custom --custom-builder epub

setup: say-setup $(STAMP) ## set up .venv and do nothing else

clean: ## remove _build and caches; .venv, data and the training runs of books stay
	@mkdir -p _build
	find _build/ -mindepth 2 -maxdepth 2 ! -name 'runs*' -exec rm -rf {} +
	find _build/ -mindepth 1 -maxdepth 1 ! -type d -exec rm -f {} +
	find _build/ -maxdepth 1 -type d -empty -delete
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
	find selfsim study tests notebooks book benchmarks -type d \
		\( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} + 2>/dev/null || true

clean-all: clean ## do the same and remove .venv
	rm -rf $(VENV)

# Each command prints its cost before it starts.

say-setup:
	@if [ ! -f $(STAMP) ]; then \
		echo "$(VENV) is set up first: 1 to 4 minutes and 6 GB of disk (less without CUDA)."; \
	fi

say-book: say-setup
	@echo "make book ($(PRESET)): the quick preset takes about 20 minutes on 2 cores and 300 MB of disk."

say-publish: say-setup
	@echo "make publish ($(PRESET)): the quick preset takes about 20 minutes on 2 cores and 300 MB of disk."
	@echo "It replaces the chapters in book/chapters/."

say-test: say-setup
	@echo "make test: up to 4 minutes on 2 cores and 100 MB of disk."

say-test-all: say-setup
	@echo "make test-all: up to 30 minutes on 2 cores and 500 MB of disk."

# A change of pyproject.toml or constraints.txt repeats the set-up. `--python` names the target, because uv would
# otherwise install into an active virtual or conda environment.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: selfsim needs Python 3.11 or newer, and \"$(PYTHON)\" is" \
			"$$($(PYTHON) --version 2>&1 | tail -n 1)." >&2; \
		echo "Install a newer Python, or name an installed one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
		exit 1; }
	@free=$$(df -Pk . | awk 'NR == 2 { print $$4 }'); \
	if [ ! -d $(VENV) ] && [ "$${free:-0}" -lt $(NEEDED_KB) ]; then \
		echo "make: only $$((free / 1000000)) GB of disk are free here; the set-up may need 7 GB." >&2; \
	fi
	@$(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt uv
	@$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@
