"""Checks ahead of a sale, while its event waits."""
