"""DB1: the operator's side of its SQL functions."""
