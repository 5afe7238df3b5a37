# Every target works on a fresh machine with Python 3.10 or later: the environment is made once, in $(VENV), and
# installed again only when setup.py has changed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# OpenMP threads that spin while they wait make every step several times slower on a busy machine.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: quickstart test test-slow gpu evidence-cpu lint types wheel site clean

# Goes on where an interrupted one stopped; a finished one is only evaluated again.
quickstart: $(VENV)/installed-reports
	$(BIN)/python tools/train_net.py --config-file configs/quickstart.yaml --resume
	$(BIN)/python tools/plot_run.py output/quickstart

test: $(VENV)/installed-test
	$(PYTEST)

test-slow: $(VENV)/installed-test
	$(PYTEST) -m slow

# On a machine with a CUDA device and PyTorch of its own; needs .gpu/, installs nothing.
gpu:
	@PYTHONPATH=projects/ScaleEq:. $(PYTHON) -m evidence.gpu

# A night on two cores, and it goes on where it was stopped: probes of fusions, then short trainings. Needs CamVid under
# DETECTRON2_DATASETS; leaves docs/results/{probes.jsonl,study_*.json,fusions_cost.json}, docs/evidence.md, its figures.
evidence-cpu: $(VENV)/installed-reports,pretrained
	PYTHONPATH=. $(BIN)/python -m evidence.probe features --network tf_efficientnet_lite0 tf_efficientnet_lite2
	PYTHONPATH=. $(BIN)/python -m evidence.probe features --network tf_efficientnet_lite0 depth_mm --data toy3d
	PYTHONPATH=. $(BIN)/python -m evidence.probe run --cells '*'
	PYTHONPATH=. $(BIN)/python -m evidence.study run
	PYTHONPATH=. $(BIN)/python -m evidence.fusions_cost
	PYTHONPATH=. $(BIN)/python -m evidence.page --figures

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" PYTHONPATH=projects/ScaleEq:. lint-imports

# Leaves dist/scaleeq-VERSION-py3-none-any.whl.
wheel: $(VENV)/installed-dev
	$(BIN)/python -m build --wheel

# Leaves site/, static pages; a broken link or an unknown name in docs/ fails.
site: $(VENV)/installed-site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

types: $(VENV)/installed-dev
	$(BIN)/mypy

$(VENV)/installed-%: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[$*]"
	touch $@

.PRECIOUS: $(VENV)/installed-%

clean:
	rm -rf $(VENV) build dist site *.egg-info projects/ScaleEq/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
