"""The ports' real ends: DB1, ledgers, webhooks."""
