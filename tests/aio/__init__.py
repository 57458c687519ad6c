"""Tests of the waiting primitives and threads."""
