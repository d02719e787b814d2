# Each command sets up .venv the first time; packages are compiled then, as by pip, and not by each process that imports
# them where PYTHONDONTWRITEBYTECODE is set. Tests run in three processes of one thread each, since they often wait for
# other processes. Each takes a third of the list and then from another's end, so that files share their fixtures.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test check drill docs gpu wheels format clean

demo: $(READY)
	$(BIN)/vivit demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal -m "not drill"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

drill: $(READY)
	$(BIN)/python -m pytest -m drill

docs: $(READY)
	$(BIN)/zensical build --clean --strict

gpu: $(READY)
	$(BIN)/python -m benchmarks gpu --minutes 14

wheels: $(READY)
	$(BIN)/python benchmarks/wheels.py download 3.12

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("vivit needs Python 3.11 or newer, got %d.%d; name another one: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -c constraints.txt -e . --group dev
	@touch $(READY)

clean:
	rm -rf .venv demo
