"""Orders: payload, several slots, holds."""
