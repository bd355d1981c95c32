"""Formats of other programs, one module each, written and read."""

from collections.abc import Mapping
from types import MappingProxyType

TARGETS: Mapping[str, str] = MappingProxyType({"geojson": "geojson", "geojson.gz": "geojson", "quip-csv": "quip"})
"""What results can be exported to: a target's name, and the module here whose ``export_slide`` writes it."""

SOURCES: Mapping[str, str] = MappingProxyType(
    {"quip-csv": "quip", "geojson": "geojson", "labels": "labelimage", "geoparquet": "geoparquet"}
)
"""What results can be made from: a format's name, and the module here whose ``describe_outlines`` and
``iter_outlines`` read it (see :mod:`wsiseg.interop.segmentation`)."""
