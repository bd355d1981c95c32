"""Records of slides (``slide.json``) as a run writes them, for tests that need no run."""

from __future__ import annotations

from typing import Any

ALWAYS = {
    "schema": "wsiseg.slide",
    "version": 1,
    "versions": {"wsiseg": "0.1.0"},
    "created": "2026-01-01T00:00:00Z",
}


def failed_record(name: str, **changes: object) -> dict[str, Any]:
    """A record of a slide that failed, in the folder ``name``."""
    return {
        **ALWAYS,
        "id": name,
        "status": "failed",
        "error": {"kind": "SlideError", "message": "no slide"},
        "slide": {"path": f"/slides/{name}.svs", "name": f"{name}.svs"},
        **changes,
    }


def finished_record(
    name: str, *, slide: str = "s.svs", width: int = 100, height: int = 80, status: str = "complete"
) -> dict[str, Any]:
    """A record of a segmented slide, in the folder ``name``."""
    return {
        **ALWAYS,
        "id": name,
        "status": status,
        "error": None,
        "key": "0" * 64,
        "slide": {
            "path": f"/slides/{slide}",
            "name": slide,
            "bytes": 1000,
            "fingerprint": "1" * 64,
            "reader": "tiff",
            "vendor": "",
            "width": width,
            "height": height,
            "levels": [[width, height]],
            "bounds": [0, 0, width, height],
            "mpp": 0.25,
            "mpp_source": "option",
        },
        "specification": {"model": {"name": "classical"}, "calibration": {}, "mpp_effective": 0.5},
        "tiles": {"total": 1, "done": 1, "blank": 0, "failed": 0},
        "lost": {"area_mm2": 0.0, "fraction_of_tissue": 0.0, "boxes": []},
        "nuclei": 0,
        "tissue_mm2": 0.0,
        "artefacts": {"pen": 0.0},
        "seams": {
            "band_nuclei": 0,
            "duplicates_removed": 0,
            "adopted": 0,
            "density_ratio": None,
            "straight_edge_ratio": None,
        },
        "grade": {
            "kind": "automatic",
            "grade": "Best",
            "bad": 0,
            "patches": 0,
            "fraction": None,
            "interval": [0, 1],
            "confidence": 0.95,
            "grade_low": "Best",
            "grade_high": "Unacceptable",
            "failure": None,
            "reasons": {},
            "check": "x 1",
            "rubric": {"good": "1/15", "min_patches": 15},
            "assessed": True,
            "words": "",
            "placed": 0,
        },
        "timings_s": {"total": 1.0},
    }
