"""A key-value store, divided over servers by its deployment managers."""
