"""Every stack of managers either works or is refused with a reason."""
