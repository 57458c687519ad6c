"""Todo lists, one for each user."""
