"""An application for tests of the command line."""
