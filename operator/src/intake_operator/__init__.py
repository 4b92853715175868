"""The operator of intake-engine."""
