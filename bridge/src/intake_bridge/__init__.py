"""The bridge of intake-engine."""
