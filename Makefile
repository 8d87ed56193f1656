# Everything happens in .venv; each target sets up what it needs and nothing twice.
PYTHON ?= python3
# The CPU build is enough to serve and to test; give another requirement for a GPU, e.g. TORCH="torch>=2.11,<2.14".
TORCH ?= torch==2.13.0
ARGS ?=

BIN := .venv/bin
UI := heddle/server/ui

.PHONY: run test lint page check-page browser clean

run: .venv/.run                     ## set up and serve the default model at http://127.0.0.1:8000
	$(BIN)/heddle serve $(ARGS)

test: .venv/.dev browser            ## set up and run all tests but `gpu` and `slow`
	$(BIN)/heddle pull
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.dev                    ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

page: $(UI)/node_modules/.package-lock.json   ## build the chat page (needs Node 20)
	cd $(UI) && npm run build

check-page: page                    ## fail when the committed build of the chat page is stale
	cd $(UI) && npm run check && npm test
	@git diff --exit-code --stat -- $(UI)/dist && test -z "$$(git status --porcelain -- $(UI)/dist)" \
	  || { echo "The built chat page differs from $(UI)/dist: run 'make page' and commit it."; exit 1; }

browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || { echo "The browser tests need Chromium: install it with your system's packages (Debian: sudo apt-get install chromium)."; exit 1; }

clean:
	rm -rf .venv .cache $(UI)/node_modules

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.torch: | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@touch $@

KERNELS := setup.py $(wildcard heddle/kernels/native/*)

.venv/.run: .venv/.torch pyproject.toml $(KERNELS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.dev: .venv/.torch pyproject.toml $(KERNELS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/.run

$(UI)/node_modules/.package-lock.json: $(UI)/package-lock.json
	cd $(UI) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
