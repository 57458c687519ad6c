"""Tests of ``amino.code``."""
