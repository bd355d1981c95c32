"""Slides with exactly known content, and damage to order: for tests, demonstrations and benchmarks."""

from wsiseg.testing.faults import corrupt_tile, drop_tile, strip_mpp, tile_count, truncate
from wsiseg.testing.svs import write_svs

__all__ = ["corrupt_tile", "drop_tile", "strip_mpp", "tile_count", "truncate", "write_svs"]
