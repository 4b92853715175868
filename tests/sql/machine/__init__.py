"""A state machine over the real SQL: `model` says what must come of each step, `claims` and `bridge` make the steps."""
