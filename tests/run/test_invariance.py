"""The same nuclei for any tile size and any number of workers, with the default model on a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from wsiseg.core.nuclei import Nuclei
from wsiseg.evaluate import match_polygons
from wsiseg.models.registry import DEFAULT_MODEL
from wsiseg.results.nuclei import read_nuclei
from wsiseg.run.cluster import ClusterOptions, open_executor
from wsiseg.run.pipeline import segment_slides
from wsiseg.testing import write_slide
from wsiseg.testing.runs import same_results
from wsiseg.tiles.request import SegmentOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[int, Any]]:
    """By their numbers of workers."""
    with ExitStack() as opened:
        options = {count: ClusterOptions(workers=count, device="cpu", dashboard="127.0.0.1:0") for count in (1, 2)}
        yield {count: opened.enter_context(open_executor(one)) for count, one in options.items()}


def segment(slide: Path, out: Path, tile: int, executor: Any) -> Path:
    result = segment_slides([slide], out, SegmentOptions(DEFAULT_MODEL, tile), executor)
    assert result.exit_code == 0
    return out / result.records[0].id


def overlapping(nuclei: Nuclei, share: float = 0.5) -> int:
    """Pairs of nuclei of which one covers more than ``share`` of the other: the same nucleus twice."""
    polygons = nuclei.geometry()
    first, second = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    pairs = first < second
    first, second = first[pairs], second[pairs]
    common = shapely.area(shapely.intersection(polygons[first], polygons[second]))
    areas = np.minimum(shapely.area(polygons[first]), shapely.area(polygons[second]))
    return int(np.count_nonzero(common > share * areas))


@pytest.fixture(scope="module", params=["seams", "real"])
def slide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """4096² drawn pixels, one tile of 2048, with touching nuclei on every 512th at 0.5 mpp; and a real slide."""
    if request.param == "real":
        yield request.getfixturevalue("real_data")("slides/CMU-1-Small-Region.svs")
        return
    path = tmp_path_factory.mktemp("seams") / "seams.svs"
    write_slide(path, width=4096, height=4096, layout="seams", seed=1)
    yield path


def test_tile_size_and_workers_do_not_matter(slide: Path, clusters: dict[int, Any], tmp_path: Path) -> None:
    folders = {tile: segment(slide, tmp_path / str(tile), tile, clusters[2]) for tile in (512, 1024, 2048)}
    same_results(folders[1024], segment(slide, tmp_path / "one", 1024, clusters[1]))
    found = {tile: read_nuclei(folder / "nuclei.parquet") for tile, folder in folders.items()}
    for tile, nuclei in found.items():
        assert shapely.is_valid(nuclei.geometry()).all()
        assert overlapping(nuclei) == 0
        match = match_polygons(found[2048], nuclei, iou=0.9)
        print(f"{slide.stem}: tile {tile} against 2048: {len(nuclei)} nuclei, "
              f"recall {match.recall:.5f}, precision {match.precision:.5f}")  # fmt: skip
        assert min(match.recall, match.precision) >= 0.999
