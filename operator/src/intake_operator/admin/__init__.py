"""The admin API: what people do to dead letters and ask of the ledger, authorised by Kubernetes."""
