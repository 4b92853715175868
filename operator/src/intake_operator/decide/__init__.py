"""Pure decisions: from the spec, what was observed and the time, to steps and a status."""
