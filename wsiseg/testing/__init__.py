"""Slides with exactly known content, and damage to order: for tests, demonstrations and benchmarks."""

from wsiseg.testing.faults import corrupt_tile, drop_tile, strip_mpp, tile_count, truncate
from wsiseg.testing.svs import write_svs
from wsiseg.testing.synthetic import Truth, read_truth, write_slide

__all__ = [
    "Truth",
    "corrupt_tile",
    "drop_tile",
    "read_truth",
    "strip_mpp",
    "tile_count",
    "truncate",
    "write_slide",
    "write_svs",
]
