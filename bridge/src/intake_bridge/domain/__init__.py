"""The bridge's rules: pure, no driver, no clock of their own."""
