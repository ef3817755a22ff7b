# The two commands that matter: `make lab` opens the course, `make test` proves that it works.

VENV ?= .venv
COLAB_VENV ?= .venv-colab
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
BROWSER_STAMP := $(VENV)/installed-browser
INSTRUCTOR_STAMP := $(VENV)/installed-instructor
LAB_ARGS ?=
# Processes that share the tests, a file at a time; each runs on one thread, since two that run on two threads get in each other's way.
WORKERS ?= 2
ARGS ?=

# Tests and committed notebooks never depend on the network.
test test-browser notebooks bench: export HF_HUB_OFFLINE = 1
# A progress bar would be an output that no two runs share.
test notebooks: export TQDM_DISABLE = 1

.DEFAULT_GOAL := help
.PHONY: help lab test test-browser real assignments grade grades test-colab check notebooks findings bench model report sae pages address reproduce lens lint format clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

$(STAMP): pyproject.toml constraints.txt tools/install.sh tools/lab_settings.json
	sh tools/install.sh $(VENV)
	@touch $@

lab: $(STAMP)  ## Install (the first time) and open JupyterLab on notebook 00; LAB_ARGS="--no-browser" for more flags
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" $(LAB_ARGS) notebooks/00_start_here.ipynb

test: $(STAMP)  ## Install (the first time) and run all tests and all notebooks; ARGS="-k world" for some of them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Playwright drives a Chromium or Chrome that is installed already; without either the tests are skipped and say so.
$(BROWSER_STAMP): $(STAMP)
	if $(BIN)/pip install --constraint constraints.txt --editable ".[browser]"; then touch $@; fi

test-browser: $(BROWSER_STAMP)  ## Run every notebook in a real browser and move its widgets; pictures in tests/browser/shots
	$(BIN)/python -m pytest -rs tests/browser $(ARGS)

real: $(STAMP)  ## Fetch three real models (about 0.9 GB, written to your caches); MODELS=smollm2-135m for one
	$(BIN)/python -m helpers.real_models $(MODELS)

# nbgrader and what it needs, only for who teaches.
$(INSTRUCTOR_STAMP): $(STAMP)
	$(BIN)/pip install --constraint constraints.txt --editable ".[instructor]" && touch $@

assignments: $(INSTRUCTOR_STAMP)  ## Write the student versions of the assignments to runs/grading/release
	$(BIN)/python -m teaching.grade assignments $(ARGS)

grade: $(INSTRUCTOR_STAMP)  ## Grade a folder of submissions: make grade SUBMISSIONS=FOLDER
	$(BIN)/python -m teaching.grade grade "$(SUBMISSIONS)"

grades: $(INSTRUCTOR_STAMP)  ## Write the tables of grades and the feedback again, after grading by hand
	$(BIN)/python -m teaching.grade table

test-colab: $(STAMP)  ## Install as Google Colab would, with its versions, and run all lessons there; ARGS="notebooks/04a*" for some
	WORKERS=$(WORKERS) $(BIN)/python tools/colab_lane.py $(COLAB_VENV) $(ARGS)

check: $(STAMP)  ## Look for what is missing or broken, and say what to do about it
	$(BIN)/python -m helpers.check

notebooks: $(STAMP)  ## Run all notebooks again and save their outputs in place; ARGS="notebooks/00*" for some of them
	$(BIN)/python tools/run_notebooks.py $(ARGS)

findings: $(STAMP)  ## Write what the lessons found to docs/findings.md
	$(BIN)/python tools/findings_page.py

bench: $(STAMP)  ## Time the import, models, scans of neurons and the widgets, each beside a peer or a limit
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only $(ARGS)

model: $(STAMP)  ## Train the course LM; ARGS="--preset quick" for a smaller one in about 15 minutes
	$(BIN)/python -m helpers.course_lm train $(ARGS)

report: $(STAMP)  ## Measure the course LM on what it has never read, and write its report card
	$(BIN)/python -m helpers.course_lm report $(ARGS)

sae: $(STAMP)  ## Train the sparse autoencoders of the course LM, in minutes; ARGS="course-lm-topk" for one of them
	$(BIN)/python -m helpers.one_layer.sae_files $(ARGS)

pages: $(STAMP)  ## Write docs/lecture_map.md, where each figure of the lecture comes alive
	$(BIN)/python tools/lecture_map_page.py

address: $(STAMP)  ## Write the course's address from pyproject.toml into badges, setup cells and how to cite
	$(BIN)/python tools/address.py

reproduce: $(STAMP)  ## Run the headline experiments on a model; ARGS="--model gpt2 --section 03b"
	$(BIN)/python -m helpers.reproduce $(ARGS)

lens: $(STAMP)  ## Train the tuned lens of the course LM again, in minutes
	$(BIN)/python -m helpers.speak.train_lens

lint: $(STAMP)  ## Look for mistakes and for untidy code, notebooks included
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(STAMP)  ## Tidy the code, notebooks included
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove the environment and all caches; the model, and training runs, stay
	rm -rf $(VENV) $(COLAB_VENV) *.egg-info .pytest_cache .ruff_cache .hypothesis .benchmarks build
	find helpers tests tools notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
