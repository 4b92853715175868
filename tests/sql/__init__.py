"""The SQL on a real PostgreSQL 18."""
