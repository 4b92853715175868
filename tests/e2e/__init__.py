"""The end-to-end tests, on a real cluster: `make e2e`."""
