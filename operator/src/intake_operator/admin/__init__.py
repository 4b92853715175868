"""The admin API: dead letters, withheld slots, the audit, the comparison. Kubernetes authorizes its callers."""
