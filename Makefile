# make demo: the main job, a ViT on digits, random against subcloned.   make test: style, types and all tests.
# Both set up .venv first, which takes a minute or two once. Needs Python 3.11 or newer, pip, git.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo demo-gpt2 demo-real figures study-mini test test-lowest test-slurm lock

demo: .venv/installed
	$(PY) -m subcloning.demo digits

# The same for GPT-2 on the source code of Python's standard library.
demo-gpt2: .venv/installed
	$(PY) -m subcloning.demo gpt2_demo

# SmolLM2-135M, which others trained, made smaller by the command, trained for a few minutes, and asked to continue a sentence.
demo-real: .venv/installed
	PYTHON=$(PY) experiments/smollm2/demo.sh

# All tables and figures of experiments/ from the committed runs, without training. Text stays as it is committed, to the
# byte; images may differ in a few bytes where matplotlib or its fonts are others.
figures: .venv/installed
	$(PY) -m subcloning.analysis

# All studies of mini scale from nothing: about a day on 2 cores. Stopped at any point, it goes on where it was.
study-mini: .venv/installed
	set -e; for study in $$(grep -l "^scale: mini" experiments/*/study.yaml); do \
		PYTHON=$(PY) "$${study%study.yaml}run.sh"; \
	done
	$(PY) -m subcloning.analysis

test: .venv/installed
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	$(PY) -m pytest --numprocesses=2 --dist=loadgroup

# With the lowest versions that pyproject.toml allows, in an environment of their own.
test-lowest: .venv/installed
	.venv/bin/uv venv --quiet --clear --python $(PY) .venv-lowest
	.venv/bin/uv pip install --python .venv-lowest --quiet --compile-bytecode --resolution lowest-direct -e '.[dev]'
	.venv-lowest/bin/python -m pytest --numprocesses=2 --dist=loadgroup

# Sweeps on a real SLURM, which this brings up and takes down again: for root on a Debian machine that you can spare.
test-slurm: .venv/installed
	SUBCLONING_TEST_SLURM=1 $(PY) -m pytest -rs tests/slurm

# Works without ensurepip too, which some distributions leave out. Bytecode is made here, since images of containers often
# tell Python to keep none, and then each process of a test or a sweep compiles PyTorch anew, which takes seconds.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}: call make PYTHON=python3.11")'
	test -x $(PY) || $(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(PY) install --quiet --disable-pip-version-check uv==0.13.8
	.venv/bin/uv pip install --python $(PY) --quiet --compile-bytecode -r requirements.lock
	.venv/bin/uv pip install --python $(PY) --quiet --no-deps --no-build-isolation -e .
	@touch $@

# What is pinned stays, where it still fits; `make lock UPGRADE=--upgrade` takes the newest versions that fit together.
# environment.yml has the same pins: tests/test_packaging.py says where it differs.
lock:
	.venv/bin/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --extra dev --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock
