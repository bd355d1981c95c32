"""Formats of other programs, one module each, written and read."""

from collections.abc import Mapping
from types import MappingProxyType

TARGETS: Mapping[str, str] = MappingProxyType({"geojson": "geojson", "geojson.gz": "geojson", "quip-csv": "quip"})
"""What results can be exported to: a target's name, and the module here whose ``export_slide`` writes it."""
