"""Connections to PostgreSQL: addresses, times, errors."""
