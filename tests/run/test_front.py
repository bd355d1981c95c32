"""How far a slide is: no row before its tiles and the rows above it, nothing before its nuclei."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from wsiseg.results.folder import WorkFolder
from wsiseg.run.front import Front
from wsiseg.slide import SlideSource
from wsiseg.stitch.stage import RowJob

WORK = WorkFolder(Path("w"), SlideSource("s", None))


def rows(tiles: list[int], columns: int, first: int = 0) -> list[RowJob]:
    """A job for each row of tiles that has any."""
    numbers = sorted({tile // columns for tile in tiles})
    lasts = [max(tile for tile in tiles if tile // columns == number) for number in numbers]
    return [RowJob(WORK, n, last, None) for n, last in enumerate(lasts)][first:]


@given(st.sets(st.integers(0, 59), min_size=1), st.integers(0, 99))
def test_rows_go_down_behind_the_tiles(chosen: set[int], seed: int) -> None:
    tiles = sorted(chosen)
    jobs, front, done = rows(tiles, 8), Front(tiles), set()
    front.stitches(jobs)
    order = random.Random(seed).sample(tiles, len(tiles))
    stitched = 0
    for tile in order:
        front.computed([tile])
        done.add(tile)
        for job in jobs:
            whole = all(other in done for other in tiles if other <= job.last)
            assert front.has_tiles(job) == (whole and job.number == stitched)
        while stitched < len(jobs) and front.has_tiles(jobs[stitched]):
            front.stitched(jobs[stitched], 100.0 * (stitched + 1))
            stitched += 1
            assert front.has_nuclei(SimpleNamespace(bottom=100.0 * stitched))
            assert not front.has_nuclei(SimpleNamespace(bottom=100.0 * stitched + 1))
    assert stitched == len(jobs)


def test_where_nothing_is_to_be_stitched_all_is_there() -> None:
    front = Front([])
    front.stitches([])
    assert front.has_nuclei(SimpleNamespace(bottom=1e9))


def test_a_stopped_stitching_goes_on_where_it_was() -> None:
    front, jobs = Front(range(24)), rows(list(range(24)), 8, first=1)
    front.stitches(jobs)
    assert not front.has_nuclei(SimpleNamespace(bottom=0.0))
    front.computed(range(16))
    assert [front.has_tiles(job) for job in jobs] == [True, False]
