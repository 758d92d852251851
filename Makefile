# Each target creates the environment if it is missing.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.complete

.PHONY: setup demo test test-slurm lint format clean-demo

setup: $(SETUP)  ## only the environment

demo: $(SETUP)  ## the whole paper in miniature: results/demo/report.md
	@$(BIN)/snakemake all --cores all --resources gpu=2 --configfile config/demo.yaml
	@echo "Read results/demo/report.md"

test: $(SETUP)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(PYTEST)

test-slurm: $(SETUP)  ## on a real Slurm cluster that it starts on this machine (as root; installs slurm-wlm and munge)
	$(BIN)/python -m pytest tests/slurm -W default $(PYTEST)

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/pyright

format: $(SETUP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

clean-demo:
	rm -rf results/demo

# The stamp is written last, so an interrupted installation is never mistaken for a complete one.
$(SETUP): requirements.lock pyproject.toml
	@echo "Setting up .venv (7 GB; one to four minutes) ..."
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" .venv && \
	  uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps -e . ; \
	else \
	  $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e . ; \
	fi
	@touch $(SETUP)
