"""Formats of other programs, one module each, written and read."""
