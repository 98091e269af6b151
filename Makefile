PYTHON ?= python3
CORES ?= all
BIN := .venv/bin

.PHONY: setup table1 table2 test reference lint clean

setup: .venv/.done

# a pinned lock without index addresses; a second call does nothing
.venv/.done: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

table1 table2: setup
	$(BIN)/snakemake --cores $(CORES) results/$@.csv
	@cat results/$@.md

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint

# the committed run: more images a row, then its table, figures and provenance beside the code
reference: setup
	$(BIN)/snakemake --cores $(CORES) results/table1.csv --config images=5000
	mkdir -p results/reference/pocket/figures
	$(BIN)/harmonica timing results/ > results/reference/pocket/timing.txt
	cp results/table1.* results/reference/pocket/
	cp results/figures/table1-* results/reference/pocket/figures/

clean:
	rm -rf results/pocket results/paper results/table*.* results/figures .snakemake
