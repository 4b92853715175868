"""The soak: an hour of steady claims through two bridges."""
