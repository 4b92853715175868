"""The admin API: dead letters, the audit, and the comparison with the ledger. Kubernetes authorizes its callers."""
