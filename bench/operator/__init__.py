"""The operator: requests, CPU and memory for few events and for many."""
