# Email Router: the few words that do everything. `make` alone prints them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-kill check generate bench fuzz servers lock clean

help: ## print this list
	@echo "make TARGET [ARGS=\"...\"]: what can be done here"
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Email Router needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(STAMP) ## make .venv with everything in it; the other targets do so themselves

demo: install ## play the whole story on this machine; ARGS=--once ends after it
	$(BIN)/email-router demo $(ARGS)

test: install ## all tests; servers that are missing are named skips; ARGS go to pytest
	@scripts/servers --quiet || true
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

test-fast: install ## the tests that need no server and no database, under a minute
	$(BIN)/pytest -q -n auto -m "not servers and not database and not kill" $(ARGS)

test-kill: install ## 200 random kills under traffic, contents compared (long)
	EMAIL_ROUTER_KILLS=200 $(BIN)/pytest -m kill $(ARGS)

check: install ## before each commit: ruff, mypy --strict, layers, generated files clean
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate.py --check

generate: install ## write docs/settings.md and docs/cli.md from the code
	$(BIN)/python scripts/generate.py

bench: install ## receive and send against mbsync, fetchmail, getmail6 and Postfix
	$(BIN)/python -m bench $(ARGS)

fuzz: install ## mutate messages for FUZZ_SECONDS (60) seconds
	$(BIN)/python -m tests.fuzz $(ARGS)

servers: ## Dovecot and Postfix for the tests (Debian packages, as root)
	@scripts/servers

lock: ## pin every dependency again, with hashes and without addresses
	uv pip compile --quiet --upgrade --generate-hashes --universal --no-header --python-version 3.11 pyproject.toml --group dev -o requirements.lock

clean: ## remove what was made here
	rm -rf $(VENV) .import_linter_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
