"""The benchmark of the bridge: from the queue to the ledger."""
