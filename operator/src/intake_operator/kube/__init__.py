"""I/O with Kubernetes."""
