# Each target sets up what it needs. PYTHON chooses the interpreter that the environment is made from (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
export OMP_NUM_THREADS := 1

.PHONY: search test check demo install bench clean

search: $(INSTALLED)  ## a real search on digits: two minutes on two cores
	$(BIN)/morphogen search

# three at a time on two cores, since some wait; the files that wait longest begin
test: $(INSTALLED)  ## all tests but the slow ones; with SLOW=1 those too: kills, real servers, a cluster, the demonstration
	$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not $(if $(SLOW),quick,slow)"

check: $(INSTALLED)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(INSTALLED)  ## deployments, a kill, two nights and a champion on real servers; needs PostgreSQL's programs
	$(BIN)/python infra/demo.py

bench: $(INSTALLED)  ## what we claim, measured quickly
	for program in $$(grep -l '^Usage: python' benchmarks/*.py); do $(BIN)/python $$program --quick || exit 1; done

install: $(INSTALLED)  ## the environment in .venv

$(INSTALLED): pyproject.toml infra/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Morphogen needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c infra/constraints.txt -e '.[dev]'
	touch $@

clean:  ## removes the environment, not the searches
	rm -rf .venv
