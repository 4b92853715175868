"""What the operator knows of an IntakeEvent: its specification and what was observed of it."""
