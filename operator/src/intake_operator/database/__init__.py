"""DB1: its migrations, and the calls of its SQL functions."""
