PYTHON ?= python3
CORES ?= all
WORKERS ?= 2
BIN := .venv/bin

TABLES := table1 table2 table3 table4 table5 table6 transfer frontier sweep ablations
POCKET := results/pocket

.PHONY: setup $(TABLES) figures report docs test test-all reference bench bench-gpu lint clean clean-paper

setup: .venv/.done

# a pinned lock without index URLs; a second call does nothing
.venv/.done: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

$(TABLES): setup
	$(BIN)/snakemake --cores $(CORES) results/$@.csv
	@cat results/$@.md

# every figure, .png and .pdf, in results/<scale>/figures
figures: setup
	$(BIN)/snakemake --cores $(CORES) figures

# one page with all tables and figures, their captions and provenance
report: setup
	$(BIN)/snakemake --cores $(CORES) all
	$(BIN)/snakemake all --report report.html

# the documentation, in site/
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not extended"

# with the cases that CI has no time for, before a release
test-all: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint
	$(BIN)/lint-imports
	$(BIN)/mypy

# the committed run: every table with its figures and provenance beside the code, over three training seeds; class-conditional
# tables with more images per row. The frontier is as it is configured: all methods at five budgets, one seed each
REFERENCE := --configfile workflow/config/reference.yaml --config

reference: setup
	$(BIN)/snakemake --cores $(CORES) results/table1.csv results/table3.csv results/sweep.csv results/ablations.csv \
		results/transfer.csv $(REFERENCE) images=5000
	$(BIN)/snakemake --cores $(CORES) results/table2.csv results/table4.csv results/table5.csv results/table6.csv \
		$(REFERENCE) images=1000
	$(BIN)/snakemake --cores $(CORES) results/frontier.csv
	mkdir -p results/reference/pocket/figures
	for t in $(TABLES); do \
		cp $(POCKET)/$$t.csv $(POCKET)/$$t.md $(POCKET)/$$t.tex $(POCKET)/$$t.provenance.json results/reference/pocket/; \
		cp $(POCKET)/figures/$$t-*.png results/reference/pocket/figures/ 2>/dev/null || true; done
	$(BIN)/snakemake --cores $(CORES) $(addprefix $(POCKET)/figures/,sweep.png memory.png lambda.png drift-50.png \
		drift-20.png drift-10.png) $(REFERENCE) images=5000
	cp $(POCKET)/figures/sweep.png $(POCKET)/figures/memory.png $(POCKET)/figures/lambda.png \
		$(POCKET)/figures/drift-*.png results/reference/pocket/figures/

TRACES := tests/conformance/data/harmonica_dit_T10.safetensors tests/conformance/data/ltc_dit_T10.safetensors

# the speed and memory targets, measured here; the second on a GPU, in ten minutes, with random weights at true shapes:
# the traces of the published code first
bench: setup
	$(BIN)/harmonica bench inference plain compiled training memory metrics startup -o results/bench

bench-gpu: setup
	mkdir -p results/bench
	for t in $(TRACES); do for p in float32 tf32; do \
		$(BIN)/harmonica replay $$t --device cuda --precision $$p || exit 1; done; done > results/bench/replay-cuda.txt 2>&1 \
		|| { cat results/bench/replay-cuda.txt; exit 1; }
	cat results/bench/replay-cuda.txt
	$(BIN)/harmonica bench inference plain attention training startup memory metrics compiled --need-gpu -o results/bench
	$(BIN)/harmonica estimate table1 --scale paper --measure

# minutes of work; results of GPU days are only removed by clean-paper
clean:
	rm -rf results/pocket results/*.csv results/*.md results/*.tex results/*.provenance.json report.html

clean-paper:
	rm -rf results/paper
