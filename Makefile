# On a bare machine `make demo` and `make test` do all the set-up themselves, in .venv.
# Another interpreter: make test PYTHON=/path/to/python3

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_INPUT := examples/guit_em9_distorted.flac
DEMO_OUTPUT := out/demo
SOURCES := nldiff tests train_prior.py train_baseline.py infer.py docs $(wildcard benchmarks)
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
MINUTES ?= 10
COUNT ?= 50
MODULE ?= nldiff/metrics/statistics.py
TESTS ?= tests/$(word 2,$(subst /, ,$(MODULE)))
# Several processes, each with one thread: faster than one process with several, and results are the same.
PARALLEL := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-survey fuzz kills mutation lint format notebook docs package clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(VENV)/.installed ## restore the example guitar recording into out/demo
	$(BIN)/nldiff restore $(DEMO_INPUT) --output $(DEMO_OUTPUT) --seed 0
	@echo "In $(DEMO_OUTPUT): restored audio (.wav), estimated curve (.csv, .png) and report (.json)."

test: $(VENV)/.installed-dev ## run the test suite without the slow tests
	@command -v chromedriver >/dev/null || echo "chromedriver not found: the browser tests of the listening page are left out (apt install chromium chromium-driver)"
	$(PARALLEL) -m "not slow and not survey$$(command -v chromedriver >/dev/null || echo ' and not browser')"

test-slow: $(VENV)/.installed-dev ## run the slow tests
	$(BIN)/python -m pytest -m slow

test-survey: $(VENV)/.installed-dev ## reproduce published results of A-SPADE (a quarter of an hour, needs NLDIFF_DATA)
	$(BIN)/python -m pytest -m survey

fuzz: $(VENV)/.installed-dev ## try damaged inputs of all kinds, for MINUTES
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python tests/fuzz.py --minutes $(MINUTES)

kills: $(VENV)/.installed-dev ## end commands at random moments, each COUNT times: is anything mixed or left behind?
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python tests/random_kills.py --count $(COUNT)

mutation: $(VENV)/.installed-dev ## change MODULE at every place in turn: which changes do its TESTS not notice?
	$(INSTALL) 'cosmic-ray>=8.4'
	mkdir -p build
	printf '[cosmic-ray]\nmodule-path = "%s"\ntimeout = 120.0\nexcluded-modules = []\ntest-command = "%s"\n[cosmic-ray.distributor]\nname = "local"\n' \
	  "$(MODULE)" "$(BIN)/python -m pytest -x -q -p no:cacheprovider $(TESTS)" > build/mutation.toml
	$(BIN)/cosmic-ray baseline build/mutation.toml
	$(BIN)/cosmic-ray init --force build/mutation.toml build/mutation.sqlite
	$(BIN)/cosmic-ray exec build/mutation.toml build/mutation.sqlite
	$(BIN)/cr-report --show-pending --no-show-output --surviving-only --show-diff build/mutation.sqlite
	@echo "survivors, per cent: $$($(BIN)/cr-rate build/mutation.sqlite)"

lint: $(VENV)/.installed-dev ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)

format: $(VENV)/.installed-dev ## sort imports and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebook: $(VENV)/.installed-dev ## execute the notebooks and keep their output
	$(BIN)/python notebooks/execute.py $(NOTEBOOKS)

docs: $(VENV)/.installed-docs ## build the documentation into out/site; warnings are errors
	$(BIN)/mkdocs build --strict

package: $(VENV)/.installed-dev ## build wheel and sdist into dist, install both elsewhere and run every command
	$(INSTALL) 'build>=1.2' 'twine>=6'
	.ci/package $(BIN)/python

clean: ## remove the environment, the demo's output, build folders and caches
	rm -rf $(VENV) $(DEMO_OUTPUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv writes, so its presence means a complete environment.
$(BIN)/pip:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "error: '$(PYTHON)' not found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $$("$(PYTHON)" --version) is too old: nldiff needs 3.11 or newer; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' has no venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)

# The stamps make set-up run again only when the requirements changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing nldiff into $(VENV) (minutes the first time)"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing nldiff and its development tools into $(VENV) (minutes the first time)"
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(INSTALL) --editable '.[dev,docs]'
	@touch $@
