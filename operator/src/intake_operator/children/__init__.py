"""Pure builders of the desired children, one file for each concern; plain dicts, ready for server-side apply."""
