"""What is wrong with an event."""
