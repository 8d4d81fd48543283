# `make demo`, `make test` and `make paper` need nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all lint docs docs-serve dist bench bench-gpu conformance paper figures clean

# Without --no-compile pip compiles every module of every package; Python compiles those that are imported.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "rlkl needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python -m experiments demo

# Every experiment, then paper/index.html; fails where a claim is false.
paper: $(READY)
	$(BIN)/python -m experiments all

# The figures that the README shows, and the numbers behind them.
figures: $(READY)
	$(BIN)/python -m experiments mode_seeking collapse wrong_gradient steering typicality where_diversity_goes \
		flat_reward over_optimisation best_of_n mara entropy_mechanism trust_regions --readme

# Most of the quick tests' time, and of the many random automata's, is compilation for programs that run for milliseconds.
UNOPTIMISED := XLA_FLAGS='--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'

test: $(READY) lint
	$(UNOPTIMISED) $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not many'

test-all: $(READY) lint
	$(UNOPTIMISED) $(BIN)/python -m pytest -n 2 --dist worksteal -m many
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not many'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The documentation, into docs/_build/html; a warning is an error. Nothing is fetched.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html

docs-serve: docs
	$(BIN)/python -m http.server -d docs/_build/html

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $(VENV)/.docs

# Wheel and sdist, checked, and each installed into an empty environment; PYTHONS names more interpreters to try.
dist: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[release]'
	.ci/dist $(BIN)/python $(PYTHONS)

bench: $(READY)
	$(BIN)/python -m experiments.speed.same_work
	$(BIN)/python -m experiments.speed.startup
	$(BIN)/python -m experiments.speed
	$(BIN)/python -m experiments.speed.throughput
	$(BIN)/python -m experiments.speed.sweeping
	$(BIN)/python -m experiments.speed.growth
	$(BIN)/python -m experiments.speed.prompts
	$(BIN)/python -m experiments.speed.diagnosing

# At most six minutes, on one GPU. WHEELS: a folder of wheels to install jax's CUDA build from, without a network.
bench-gpu: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(WHEELS),--no-index --find-links '$(WHEELS)') 'rlkl[cuda]'
	$(BIN)/python -m experiments.speed.gpu

# What RLHF libraries descend: each that installs on a CPU, in an environment of its own with pinned versions (several GB in
# build/conformance), and those that were read. Fails where a row is otherwise than the committed one.
conformance: $(READY)
	$(BIN)/python -m experiments.conformance

clean:
	rm -rf $(VENV) outputs multirun paper build dist
