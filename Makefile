# Everything a person types. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CACHE := $(HOME)/.cache/intake-engine
# uv of the machine where there is one, otherwise our own in a venv that nothing else sees.
UV := $(or $(shell command -v uv 2>/dev/null),$(CACHE)/uv/bin/uv)
VENV := .venv/bin
CLUSTER := tests/cluster/cluster
WITHIN := tests/cluster/within

UNIT_TESTS := operator/tests bridge/tests shared/tests bench tests --ignore=tests/e2e --ignore=tests/argocd
TYPED := operator/src bridge/src shared/src bench tests examples
# Added to every pytest command: make e2e PYTEST_FLAGS='-k deletion -x'
PYTEST_FLAGS ?=

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: sync ## a whole sale on a real cluster, from apply to gone
	@$(WITHIN) $(VENV)/python -m examples.demo.demo

.PHONY: test
test: sync lint types unit demo e2e ## everything, from a bare machine: lint, types, unit and SQL tests, the demo, end to end

.PHONY: sync
sync: ## install Python's side of everything, PostgreSQL 18 included, into .venv
	@CACHE=$(CACHE) UV=$(UV) tests/cluster/python

.PHONY: lint
lint: ## ruff
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .

.PHONY: types
types: ## mypy --strict
	@$(VENV)/mypy $(TYPED)

.PHONY: unit
unit: ## tests on this machine: units, SQL and bridge on a real PostgreSQL
	@$(VENV)/pytest $(UNIT_TESTS) --numprocesses auto --maxprocesses 4 --dist loadfile $(PYTEST_FLAGS)

.PHONY: mutants
mutants: ## break our SQL, the bridge and the operator in every way we know, and see that a test catches each
	@$(VENV)/python -m tests.mutants $(PYTEST_FLAGS)

.PHONY: e2e
e2e: ## tests on a real cluster, made if there is none; CI=true takes it away again
	@[ -n "$${INTAKE_CONTEXT:-}" ] || tests/cluster/images/build former
	@$(WITHIN) $(VENV)/python -m tests.e2e $(PYTEST_FLAGS)

.PHONY: e2e-argocd
e2e-argocd: sync ## a real Argo CD 3.2 beside our own node, built once in ten to twenty minutes: the sales of docs/gitops.md
	@tests/argocd/build
	@INTAKE_CLUSTER_KIND=node $(WITHIN) $(VENV)/python -m tests.argocd $(PYTEST_FLAGS)

.PHONY: bench-claims
bench-claims: sync ## compare claims with what else there is, about 20 minutes, into docs/benchmarks.md; QUICK=1 only tries it out
	@CACHE=$(CACHE) bench/claims/setup
	@CACHE=$(CACHE) $(VENV)/python -m bench.claims $(if $(QUICK),--quick)

.PHONY: bench-orders
bench-orders: sync ## measure payloads, claims of several slots and holds, about 4 minutes, into docs/benchmarks-orders.md; QUICK=1 only tries it out
	@$(VENV)/python -m bench.orders $(if $(QUICK),--quick)

.PHONY: bench-bridge
bench-bridge: sync ## compare the way from the queue to the ledger with what else there is, about 4 minutes, into docs/benchmarks-bridge.md; QUICK=1 only tries it out
	@$(VENV)/python -m bench.bridge $(if $(QUICK),--quick)

.PHONY: bench-operator
bench-operator: sync ## measure what the operator costs with 1, 20 and 200 events, about 9 minutes, on a cluster, into docs/benchmarks-operator.md; QUICK=1 only tries it out
	@$(WITHIN) $(VENV)/python -m bench.operator $(if $(QUICK),--quick)

.PHONY: soak
soak: sync ## an hour of steady claims through two bridges: memory stays flat, the books agree; SECONDS=60 is shorter
	@$(VENV)/python -m bench.soak $(or $(SECONDS),3600) --report bench/results/soak.md

.PHONY: cluster
cluster: ## find or make a Kubernetes cluster, and say which
	@$(CLUSTER) up
	@echo 'kubectl and helm for it, in this shell:  eval "$$($(CLUSTER) env)"    in a new one:  make cluster-shell'

.PHONY: cluster-shell
cluster-shell: ## a shell in which kubectl and helm speak to it
	@$(CLUSTER) shell

.PHONY: cluster-down
cluster-down: ## take it away, with everything it left on the machine
	@$(CLUSTER) down

.PHONY: images
images: sync ## build the operator's and the bridge's image and postgres:18, and put them into the cluster if it runs
	@tests/cluster/images/build
