# Two commands do everything on a fresh machine with Python 3.11+ : 'make demo' and 'make test'.
PYTHON ?= python3
VENV := .venv
ORACLE := .venv-oracle
DEMO_FLAGS := $(if $(QUICK),--quick,)

.PHONY: demo test lint bench oracle clean

demo: $(VENV)/ready
	$(VENV)/bin/spiketok demo $(DEMO_FLAGS)

test: $(VENV)/ready lint
	$(VENV)/bin/python -m pytest

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

bench: $(ORACLE)/ready
	$(ORACLE)/bin/python benchmarks/run.py --size $(or $(SIZE),S)
	$(ORACLE)/bin/python benchmarks/loader.py --size S

# The peers from PyPI in a second environment, which also runs zarr 3 where the first one runs zarr 2.
oracle: $(ORACLE)/ready
	$(ORACLE)/bin/python -m pytest -m oracle
	$(ORACLE)/bin/python -m pytest tests/test_store.py

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spiketok needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dandi,plots,dask,remote,sorting,zarr-nwb,dev]'
	touch $@

$(ORACLE)/ready: pyproject.toml constraints-oracle.txt
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oracle.txt \
		-e '.[train,dev]' torch_brain falcon-challenge pynapple elephant
	touch $@

clean:
	rm -rf $(VENV) $(ORACLE)
