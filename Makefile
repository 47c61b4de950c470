# make app · make demo · make test · make test-gpu · make lint · make bench
# The environment is made in .venv on first use; PYTHON picks the interpreter (3.10 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Idle OpenMP threads sleep instead of spinning: on a busy machine spinning costs more than it saves.
export OMP_WAIT_POLICY := PASSIVE

PORT ?= 8090
DIRECTORY ?= runs/demo

.PHONY: app demo test test-data test-gpu lint bench clean

demo: $(VENV)/.installed
	@$(BIN)/python -m hrda_core demo $(DIRECTORY) $(if $(filter 1,$(OVERWRITE)),--overwrite) --source "$(SOURCE)" --target "$(TARGET)" --validation "$(VALIDATION)" \
	  $(foreach change,$(SET),--set $(change))

# both apps in a browser, without an account; Ctrl-C ends everything
app: $(VENV)/.installed-dev
	@$(BIN)/python -m tests.browser.app --port $(PORT) || test $$? -eq 130

# one process per core, one thread each: several threads per test would compete
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# the table of speed for this machine's processor; under 10 minutes where nothing else runs
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.speed

test-data: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m data

test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu tests/test_gpu.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed; this is " + sys.version) if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@# opencv-python needs libGL, which servers often lack; the headless build is the same module without windows
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { \
	  $(BIN)/python -m pip uninstall --quiet -y opencv-python && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check opencv-python-headless; }
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep -v '^-r' requirements-dev.txt)
	@touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
