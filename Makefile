# `make train` and `make test` are all there is to type on a machine with Python >= 3.11.
PYTHON ?= $(firstword $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p; done))
BIN := .venv/bin

.PHONY: train demo test test-slow test-browser lint settings results curves gallery weights cards docs docs-serve
train: .venv/installed
	$(BIN)/python train.py

# the quickest experiment, trained once, and its latent space at http://127.0.0.1:7860
demo: .venv/installed outputs/demo/metrics.json
	$(BIN)/python explore.py run=outputs/demo

outputs/demo/metrics.json:
	$(BIN)/python train.py experiment=ml_vae/digits hydra.run.dir=outputs/demo

# bytecode is kept, whatever the environment says: else each process of pytest compiles all tests and all of the package
test test-slow test-browser: export PYTHONDONTWRITEBYTECODE :=

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu and not net and not browser" --durations=10

# the explorer in headless Chromium
test-browser: .venv/installed
	$(BIN)/python -m pytest -m "browser" --durations=10

test-slow: .venv/installed
	$(BIN)/python -m pytest -m "slow and not browser" --durations=10

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/pyright --pythonpath $(BIN)/python

# after an argument of a constructor has changed: what configs are checked against
settings: .venv/installed
	$(BIN)/python tools/settings.py

# the tables of results in README.md and docs/, from results/
results: .venv/installed
	$(BIN)/python tools/results_tables.py
	$(BIN)/python tools/curves.py

# results/curves and their pictures, from run folders: make curves runs=<folder>
curves: .venv/installed
	$(BIN)/python tools/curves.py $(runs)

# the pictures of README.md and of the pages of the methods, from runs in outputs/gallery/ that are trained where missing
gallery: .venv/installed
	$(BIN)/python tools/gallery.py
	$(BIN)/python tools/explorer_picture.py

# the model cards in docs/models, from run folders: make cards runs=<folder>
cards: .venv/installed
	$(BIN)/python tools/model_cards.py $(runs)

# the folders of pretrained weights that a release attaches, to results/weights/, from runs in outputs/weights/
weights: .venv/installed
	$(BIN)/python tools/weights.py

# the documentation, to site/index.html; warnings are errors
docs: .venv/docs
	$(BIN)/mkdocs build --strict

docs-serve: .venv/docs
	$(BIN)/mkdocs serve

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

# installed once, and again when the dependencies change; the file is written last, so a half-done install is repeated
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vae_zoo needs Python >= 3.11; set PYTHON=<one>")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
