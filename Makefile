# Everything a person types. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(HOME)/.cache/intake-engine
# uv of the machine where there is one, otherwise our own in a venv that nothing else sees.
UV := $(or $(shell command -v uv 2>/dev/null),$(CACHE)/uv/bin/uv)
RUN := $(UV) run --frozen

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: sync
sync: ## install Python's side of everything, PostgreSQL 18 included, into .venv
	@command -v $(UV) > /dev/null || { echo "installing uv into $(CACHE)/uv"; python3 -m venv $(CACHE)/uv && $(CACHE)/uv/bin/pip install --quiet uv; }
	@tests/cluster/python.sh $(UV)

