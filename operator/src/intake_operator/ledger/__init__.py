"""The ledger, as the operator reads it."""
