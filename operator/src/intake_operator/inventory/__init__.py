"""The user's own inventory: read from a ConfigMap or a table, checked, and copied into DB1."""
