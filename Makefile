# Everything is set up in .venv on first use. PYTHON may name another interpreter, 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help setup sweep test test-cluster test-mcu check docs format bench clean

help:
	@echo "make sweep   the whole job on the embedded demo: videos, shards, sweep, frontier, report, prediction"
	@echo "make test    the tests          make check   ruff and mypy"
	@echo "make test-cluster   ray up, submit and down on two nodes of this machine, as root"
	@echo "make test-mcu   the C code on an emulated Cortex-M4"
	@echo "make docs    the pages as a site in site/"
	@echo "make bench   the measurements   make clean   remove what was built"

setup: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; try: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

sweep: setup
	$(BIN)/python pipelines/sweep.py --resume --refine

# Three at a time, also with two cores: the longest tests wait for Ray. A file stays with one process, which makes the
# fixtures of the file once.
test: export OMP_NUM_THREADS := 1
test: setup
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# ray up, submit and down on two nodes of this machine: root, rsync and OpenSSH.
test-cluster: setup
	$(BIN)/pytest -m cluster -rs tests/cluster/test_two_nodes.py

# gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm, as Debian has them.
test-mcu: setup
	$(BIN)/pytest -m mcu -rs tests/mcu

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/mkdocs build --strict --quiet

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The libraries that are measured against. Without them the measurements run too, and say what is missing.
.venv/peers: .venv/installed
	$(BIN)/pip install --quiet --editable '.[bench]' && touch $@ || echo "not all peers could be installed"

bench: .venv/peers
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.data

clean:
	rm -rf .venv build site *.egg-info .pytest_cache .mypy_cache .ruff_cache
