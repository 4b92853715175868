"""`intake-admin`: the admin API from a laptop. It shares nothing with the operator but the API."""
