"""Pure decisions: from what is wanted, what was observed and the time to steps and status."""
