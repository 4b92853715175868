"""A small Kubernetes, a DB1 and a ledger in memory, on which the operator makes its passes: plan, observe and act are real."""
