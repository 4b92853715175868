"""A small Kubernetes, a DB1 and a ledger in memory, for the passes of the operator: plan, observe and act are real."""
