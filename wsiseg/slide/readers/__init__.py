"""Readers, one a format: levels and stored pixels and nothing else."""
