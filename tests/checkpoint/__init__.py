"""Tests of ``amino.checkpoint``."""
