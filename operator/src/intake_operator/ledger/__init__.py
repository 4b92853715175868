"""The ledger: whether it can be used, what it has of a pool, and whether that agrees with DB1."""
