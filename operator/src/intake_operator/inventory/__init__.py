"""The slots that a user brings along: a ConfigMap or a table, into DB1."""
