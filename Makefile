# make demo   a head speaks the bundled recording; ends with the path of the video
# make test   lint, then the whole test suite
# make lint   style and format only
# make audit  known vulnerabilities of the installed packages; asks services on the network
# make bench  every benchmark; each prints its figures as one line of JSON, last
#
# Each of them first sets up .venv, and again when the requirements change. Another interpreter:
# make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RECORDING := demo/wav/sense_and_sensibility.wav

.PHONY: demo test lint audit bench

demo: $(READY)
	$(BIN)/python demo.py --life --wav_path $(RECORDING)
	@echo "The video is at the path above. For a recording of your own:" >&2
	@echo "source $(BIN)/activate; python demo.py --wav_path input.wav" >&2

# one process for each core; more than eight cost more memory than they save time
test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

audit: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet pip-audit
	$(BIN)/python -m pip_audit --local

bench: $(READY)
	for file in benchmarks/bench_*.py; do \
		$(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; \
	done

$(READY): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else \
		"Python %d.%d, expected 3.10 or newer: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	touch $(READY)
	@echo "$(VENV) is ready. To use it: source $(BIN)/activate"
