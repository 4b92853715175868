"""A small Kubernetes, a DB1 and a ledger in memory, on which the real operator makes its passes."""
