# Two commands do everything on a fresh machine with Python 3.11+ : 'make demo' and 'make test'.
PYTHON ?= python3
VENV := .venv
ORACLE := .venv-oracle
NLB := .venv-nlb
DOCS := .venv-docs
LOADERS := .venv-loaders
DEMO_FLAGS := $(if $(QUICK),--quick,)

# Without its bytecode each worker of pytest rewrites and compiles all tests anew: 20 s of each core, at every run.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long lint bench oracle oracle-loaders oracle-nlb docs wheel clean

demo: $(VENV)/ready
	$(VENV)/bin/spiketok demo $(DEMO_FLAGS)

test: $(VENV)/ready lint
	$(VENV)/bin/python -m pytest -n auto --dist loadfile

# What one change in ten touches and costs most: damage, kills, full disks, many machines, buckets.
test-long: $(VENV)/ready
	$(VENV)/bin/python -m pytest -n auto --dist loadfile -m "long and not slow"

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

bench: $(ORACLE)/ready
	$(ORACLE)/bin/python benchmarks/run.py --size $(or $(SIZE),S)
	$(ORACLE)/bin/python benchmarks/loader.py --size S

# The peers from PyPI in a second environment, which also runs zarr 3 where the first one runs zarr 2.
oracle: $(ORACLE)/ready
	$(ORACLE)/bin/python -m pytest -n auto --dist loadfile -m oracle
	$(ORACLE)/bin/python -m pytest tests/storage/test_store.py tests/storage/test_window_reader.py

# The loaders for which windows are exported, whose many dependencies stay out of the other environments.
oracle-loaders: $(LOADERS)/ready
	$(LOADERS)/bin/python -m pytest -m oracle tests/pipeline/test_samples.py

# The Neural Latents Benchmark's own code, which needs pandas 1.3.4: built from source (a C compiler, half an hour).
oracle-nlb: $(VENV)/ready $(NLB)/ready
	SPIKETOK_NLB_PYTHON=$(CURDIR)/$(NLB)/bin/python $(VENV)/bin/python -m pytest -m oracle \
		tests/sources/test_oracle_nlb.py tests/evaluation/scoring/test_oracle_nlb_scorer.py

# The pages and the reference of the Python API, as a site in site/: every link and anchor of it must lead somewhere.
docs: $(DOCS)/ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

# A wheel in dist/, installed in a clean environment outside of the checkout, which runs every block of the guides.
wheel: $(VENV)/ready
	sh tests/docs/wheel.sh $(PYTHON) $(VENV)/bin/python

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spiketok needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dandi,plots,dask,remote,hub,sorting,zarr-nwb,dev]'
	touch $@

$(ORACLE)/ready: pyproject.toml constraints-oracle.txt
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-oracle.txt \
		-e '.[train,dev]' torch_brain falcon-challenge pynapple elephant lightning
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints-oracle.txt \
		ibl-bwb-eval  # which asks for torch 2.10.0 and others of its year; its numbers are the same with these
	touch $@

$(DOCS)/ready: constraints-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-docs.txt \
		mkdocs-material 'mkdocstrings[python]'
	touch $@

$(LOADERS)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LOADERS)
	$(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]' \
		litdata==0.2.76 webdataset==1.0.2 datasets==5.2.0 torchvision==0.28.0 transformers==5.24.0 brotli==1.2.1 \
		python-snappy==0.7.3 zstd==1.5.7.2 xxhash==4.1.0 catalogue==2.0.10
	$(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		mosaicml-streaming==0.13.0  # which asks for numpy below 2.2 and transformers below 5, and works with these
	touch $@

$(NLB)/ready: constraints-nlb.txt tests/oracles/nlb_environment.sh
	sh tests/oracles/nlb_environment.sh $(NLB) $(PYTHON) constraints-nlb.txt
	touch $@

clean:
	rm -rf $(VENV) $(ORACLE) $(NLB) $(LOADERS) $(DOCS) site dist build
