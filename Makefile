# Everything runs in .venv, which is made on first use and again when its requirements change.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/installed.stamp
PYTEST_ARGS ?=
QUICK := -m "not slow and not soak"

.PHONY: demo setup check format test test-all clean
demo: $(STAMP) ## phantom brain MRI: generate, train, evaluate, report
	rm -rf demo
	$(BIN)/medgraft demo --out demo

setup: $(STAMP) ## the environment alone

check: $(STAMP) ## style, types and import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP) ## rewrite the sources in the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

test: $(STAMP) ## the tests of every change; PYTEST_ARGS adds options
	$(BIN)/pytest $(QUICK) $(PYTEST_ARGS)

test-all: $(STAMP) ## simulations of coverage and other long tests too
	$(BIN)/pytest $(PYTEST_ARGS)

clean: ## the environment and everything generated
	rm -rf .venv demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml constraints.txt
	@is_new_enough='import sys; sys.exit(sys.version_info < (3, 11))'; \
	for python in "$(PYTHON)" python3; do \
		if "$$python" -c "$$is_new_enough" >/dev/null 2>&1; then chosen="$$python"; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
		echo "error: medgraft needs Python 3.11 or newer, and neither $(PYTHON) nor python3 is;" \
			"name one with: make PYTHON=/path/to/python3.11" >&2; \
		exit 2; \
	fi; \
	echo "making .venv with $$("$$chosen" --version)"; \
	"$$chosen" -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@
