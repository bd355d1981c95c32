"""Every format that nuclei go out in and come back from passes the suite that all have to pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from wsiseg.core.nuclei import Nuclei
from wsiseg.interop.geojson import export_geojson, read_geojson
from wsiseg.interop.quip import QuipSlide, export_quip, read_quip
from wsiseg.results.nuclei import read_nuclei
from wsiseg.testing.conformance import interop as suite
from wsiseg.testing.nucleifile import NucleiWriter

SLIDE = QuipSlide("s.svs", 5000, 4500, 0.25)


def write_parquet(nuclei: Nuclei, path: Path) -> None:
    with NucleiWriter(path, {"slide": "s.svs", "fingerprint": "0" * 64}, {}) as writer:
        writer.write(nuclei)


def exporter(export: Callable[[Path, Path], object]) -> Callable[[Nuclei, Path], None]:
    """Exports read what a run wrote."""

    def write(nuclei: Nuclei, path: Path) -> None:
        source = path.with_name(f"{path.name}.parquet")
        write_parquet(nuclei, source)
        export(source, path)

    return write


FORMATS = {
    "parquet": suite.Format(write_parquet, read_nuclei, 0.0),
    "geojson": suite.Format(exporter(partial(export_geojson, gzip=False)), read_geojson, 0.006),
    "geojson.gz": suite.Format(exporter(partial(export_geojson, gzip=True)), read_geojson, 0.006),
    "quip-csv": suite.Format(exporter(partial(export_quip, slide=SLIDE)), read_quip, 0.6),
}


@pytest.fixture(scope="module")
def nuclei() -> Nuclei:
    """Star-shaped polygons of 8 to 20 vertices that keep apart, on all four tiles of the slide."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(8, 21, 60)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    owner = np.repeat(np.arange(60), sizes)
    angle = 2 * np.pi * (np.arange(offsets[-1]) - offsets[owner]) / sizes[owner]
    centre = np.stack(np.divmod(np.arange(60), 8), axis=1) * 550.0 + rng.uniform(50, 450, (60, 2))
    reach = rng.uniform(6, 12, offsets[-1])
    vertices = centre[owner] + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Nuclei(vertices, offsets)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, check, id=f"{name}-{check.__name__}")
        for name in FORMATS
        for check in suite.CHECKS
        if (name, check) != ("quip-csv", suite.check_nothing)  # it has no file for a tile without nuclei
    ],
)
def test_formats(
    name: str, check: Callable[[suite.Format, Nuclei, Path], None], nuclei: Nuclei, tmp_path: Path
) -> None:
    check(FORMATS[name], nuclei, tmp_path)
