"""Each nucleus exactly once, whatever the tiles, batches and noise."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Voronoi

from wsiseg.core.geometry import Scale, Window
from wsiseg.core.grid import TileGrid
from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import EnvironmentFault
from wsiseg.models.classical import ClassicalSegmenter
from wsiseg.results.nucleiwriter import Grown, NucleiFormat
from wsiseg.results.partfile import read_part, read_part_summary, write_part
from wsiseg.results.record import Seams
from wsiseg.slide import open_slide
from wsiseg.stitch import stream
from wsiseg.stitch.audit import Tally
from wsiseg.stitch.conflicts import resolve_seam
from wsiseg.stitch.saved import Saved, load, save
from wsiseg.stitch.stream import Stitching, stitch, stitch_rows
from wsiseg.testing import Truth
from wsiseg.tiles.candidates import select_candidates

SPACING = 20.0
BAND = 24.0


def tessellation(width: int, height: int, seed: int) -> Nuclei:
    """Touching polygons that fill a slide: the hardest case for matching by overlap."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(-1, width / SPACING + 1), np.arange(-1, height / SPACING + 1))
    points = (np.stack([x.ravel(), y.ravel()], 1) + 0.5 + rng.uniform(-0.3, 0.3, (x.size, 2))) * SPACING
    diagram = Voronoi(points)
    inside = (points > 0).all(1) & (points < [width, height]).all(1)
    regions = [diagram.regions[diagram.point_region[n]] for n in np.flatnonzero(inside)]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in regions])]).astype(np.int64)
    vertices = diagram.vertices[np.concatenate(regions)]
    return Nuclei(vertices, offsets, {"truth": np.arange(len(regions))})


def predictions(
    truth: Nuclei, grid: TileGrid, seed: int, noise: float = 0.5, band: float = BAND
) -> dict[int, Nuclei]:
    """What each tile hands over if it sees every nucleus of its read window, each with its own noise."""
    tiles = {}
    centroids = truth.centroids()
    for tile in range(len(grid)):
        read = grid.read(tile)
        seen = ((centroids >= [read.x, read.y]) & (centroids < [read.x1, read.y1])).all(1)
        rng = np.random.default_rng([seed, tile, grid.tile])
        shaken = dataclasses.replace(truth, vertices=truth.vertices + rng.normal(0, noise, truth.vertices.shape))
        shaken = shaken.with_columns(score=rng.random(len(truth)).astype(np.float32)).take(seen)
        tiles[tile] = select_candidates(shaken, grid, tile, band)
    return tiles


def run(
    tiles: dict[int, Nuclei], grid: TileGrid, batches: list[list[int]], scale: float = 2.0, row_group: int = 500
) -> tuple[Nuclei, Seams, list[int]]:
    """Stitch the tiles, batched as given; gives the result in lattice coordinates."""
    parts = [Nuclei.concatenate([tiles[t] for t in batch]).scale(Scale(scale)) for batch in batches]
    groups: list[Nuclei] = []
    ranges = [(batch[0], batch[-1]) for batch in batches]
    audit = stitch(parts.__getitem__, ranges, grid, Scale(scale), groups.append, band_px=BAND, row_group=row_group)
    result = Nuclei.concatenate(groups)
    return (
        Nuclei(result.vertices / scale, result.offsets, result.columns),
        audit,
        [len(group) for group in groups],
    )


def run_in_pieces(
    tiles: dict[int, Nuclei], grid: TileGrid, batches: list[list[int]], cuts: list[int], file: Path
) -> tuple[list[Nuclei], Seams]:
    """As :func:`run`, interrupted before these batches; what is known goes through a file each time."""
    parts = [Nuclei.concatenate([tiles[t] for t in batch]) for batch in batches]
    ranges = [(batch[0], batch[-1]) for batch in batches]
    groups: list[Nuclei] = []
    saved = Saved(Stitching.begin(grid, Scale(1.0), BAND), Grown.nothing(NucleiFormat({}, {})))
    for end in [*cuts, len(batches)]:
        first = saved.stitching.parts
        stitching = stitch_rows(
            saved.stitching,
            lambda i, first=first: parts[first + i],  # type: ignore[misc]
            ranges[first:end],
            ranges[end][0] if end < len(ranges) else None,
            groups.append,
            row_group=100,
        )
        save(file, dataclasses.replace(saved, stitching=stitching, rows=saved.rows + 1))
        saved = load(file, grid, Scale(1.0), BAND)
    assert saved.rows == len(cuts) + 1
    return groups, saved.stitching.tally.audit()


def each(grid: TileGrid) -> list[list[int]]:
    return [[tile] for tile in range(len(grid))]


def overlaps(nuclei: Nuclei) -> np.ndarray:
    """IoU and contained share, by shapely, of all pairs that touch: the independent opinion."""
    polygons = shapely.make_valid(nuclei.geometry())
    i, j = shapely.STRtree(polygons).query(polygons)
    i, j = i[i < j], j[i < j]
    shared = shapely.area(shapely.intersection(polygons[i], polygons[j]))
    areas = shapely.area(polygons)
    return np.stack(
        [shared / (areas[i] + areas[j] - shared), shared / np.minimum(areas[i], areas[j])], axis=1
    ).reshape(-1, 2)


# ---- exactly once


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tile=st.sampled_from([128, 256, 512, 1024]),
    noise=st.floats(0, 1),
    data=st.data(),
)
def test_exactly_one_of_each_for_any_tile_size_batches_and_noise(
    seed: int, tile: int, noise: float, data: st.DataObject
) -> None:
    truth = tessellation(1100, 700, seed)
    grid = TileGrid(1100, 700, tile, 64)
    tiles = predictions(truth, grid, seed, noise)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(grid) - 1)), max_size=6)) - {len(grid)})
    batches = [list(map(int, b)) for b in np.split(np.arange(len(grid)), cuts)]
    result, audit, _ = run(tiles, grid, batches)
    assert sorted(result.columns["truth"]) == list(range(len(truth)))
    assert audit.band_nuclei <= len(truth)
    # Ownership alone: what the audit says it would have got wrong is what it does get wrong.
    alone = np.concatenate([part.columns["truth"][part.columns["owned"]] for part in tiles.values()])
    counts = np.bincount(alone, minlength=len(truth))
    assert audit.duplicates_removed == (counts - 1)[counts > 1].sum()
    assert audit.adopted == (counts == 0).sum()


def test_noise_makes_ownership_alone_wrong_so_that_the_test_above_says_something() -> None:
    truth = tessellation(1100, 700, 3)
    grid = TileGrid(1100, 700, 256, 64)
    _, audit, _ = run(predictions(truth, grid, 3, 1.0), grid, each(grid))
    assert audit.adopted > 0
    assert audit.duplicates_removed > 0


def test_same_bytes_for_any_batching() -> None:
    truth = tessellation(900, 700, 5)
    grid = TileGrid(900, 700, 128, 64)
    tiles = predictions(truth, grid, 5)
    one, audit, groups = run(tiles, grid, each(grid))
    for cuts in ([], [5, 6, 7, 20], list(range(3, len(grid), 3))):
        batches = [list(map(int, b)) for b in np.split(np.arange(len(grid)), cuts)]
        other, other_audit, other_groups = run(tiles, grid, batches)
        assert other.vertices.tobytes() == one.vertices.tobytes()
        assert other.columns["truth"].tobytes() == one.columns["truth"].tobytes()
        assert other_audit == audit
        assert other_groups == groups


def test_tile_size_changes_the_result_by_noise_only() -> None:
    truth = tessellation(1100, 700, 7)
    places = []
    for tile in (128, 256, 512, 2048):
        grid = TileGrid(1100, 700, tile, 64)
        result, _, _ = run(predictions(truth, grid, 7, 1e-6), grid, each(grid))
        places.append(result.take(np.argsort(result.columns["truth"])).centroids())
    for other in places[1:]:
        np.testing.assert_allclose(other, places[0], atol=1e-4)


def test_nuclei_on_seams_and_corners_without_noise() -> None:
    square = np.array([[-5.0, -5], [5, -5], [5, 5], [-5, 5]])
    centres = np.array([[100.0, 50], [50, 100], [100, 100], [200, 100], [100.0 - 1e-9, 150], [0, 0], [300, 200]])
    truth = Nuclei(
        (centres[:, None] + square).reshape(-1, 2),
        np.arange(len(centres) + 1) * 4,
        {"truth": np.arange(len(centres))},
    )
    grid = TileGrid(300, 200, 100, 40)
    result, audit, _ = run(predictions(truth, grid, 0, 0.0), grid, each(grid))
    assert sorted(result.columns["truth"]) == list(range(len(centres)))
    assert audit.duplicates_removed == audit.adopted == 0
    # (300, 200) lies on the slide's corner: nobody's core, so the nearest tile's.
    assert result.columns["tile"][result.columns["truth"] == 6] == len(grid) - 1


# ---- tiles that disagree on what is one nucleus


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_splits_and_merges_neither_double_nor_lose(seed: int) -> None:
    truth = tessellation(700, 500, seed)
    grid = TileGrid(700, 500, 128, 64)
    tiles = _merged_predictions(truth, grid, seed)
    result, _, _ = run(tiles, grid, each(grid))
    found = overlaps(result)
    assert not ((found[:, 0] >= 0.3) | (found[:, 1] >= 0.6)).any()
    tree = shapely.STRtree(shapely.make_valid(result.geometry()))
    hit, _ = tree.query(shapely.points(truth.centroids()), predicate="within")
    assert set(hit) == set(range(len(truth)))


def _merged_predictions(truth: Nuclei, grid: TileGrid, seed: int) -> dict[int, Nuclei]:
    """Each tile decides by itself which of the given neighbours it merges."""
    polygons = truth.geometry()
    tree = shapely.STRtree(polygons)
    partner = np.full(len(truth), -1)
    for n in range(len(truth)):
        near = [m for m in tree.query(polygons[n], predicate="touches") if m > n and partner[m] < 0]
        good = [m for m in near if shapely.length(shapely.intersection(polygons[n], polygons[m])) > 8]
        if partner[n] < 0 and good:
            partner[n], partner[good[0]] = good[0], n
    tiles = {}
    for tile in range(len(grid)):
        rng = np.random.default_rng([seed, tile])
        read = grid.read(tile)
        window = shapely.box(read.x + 12, read.y + 12, read.x1 - 12, read.y1 - 12)
        pieces = []
        for n in tree.query(window, predicate="intersects"):
            m = partner[n]
            merge = m >= 0 and np.random.default_rng([seed, tile, min(n, m)]).random() < 0.4
            if merge and n < m:
                pieces.append(shapely.union(polygons[n], polygons[m]))
            elif not merge:
                pieces.append(polygons[n])
        nuclei = Nuclei.from_geometry(np.array(pieces, dtype=object))
        nuclei = dataclasses.replace(
            nuclei,
            vertices=nuclei.vertices + rng.normal(0, 0.3, nuclei.vertices.shape),
            columns={"score": rng.random(len(nuclei)).astype(np.float32)},
        )
        tiles[tile] = select_candidates(nuclei, grid, tile, BAND)
    return tiles


def boxes(*rows: tuple[float, float, float, float, int, bool, float]) -> Nuclei:
    """Candidates from (x0, y0, x1, y1, tile, owned, score)."""
    vertices = np.array([[[r[0], r[1]], [r[2], r[1]], [r[2], r[3]], [r[0], r[3]]] for r in rows], dtype=float)
    return Nuclei(
        vertices.reshape(-1, 2),
        np.arange(len(rows) + 1) * 4,
        {
            "tile": np.array([r[4] for r in rows], dtype=np.int64),
            "owned": np.array([r[5] for r in rows], dtype=bool),
            "score": np.array([r[6] for r in rows], dtype=np.float32),
            "seam": np.ones(len(rows), dtype=bool),
        },
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # The owner is the authority, although the other is larger and surer.
        ([(0, 0, 10, 10, 0, True, 0.1), (0, 0, 11, 11, 1, False, 0.9)], [1, 0]),
        # Both own it: the larger stays; with equal areas the surer; with equal scores the lower tile.
        ([(0, 0, 10, 10, 0, True, 0.9), (0, 0, 10, 12, 1, True, 0.1)], [0, 1]),
        ([(0, 0, 10, 10, 0, True, 0.1), (0, 0, 10, 10, 1, True, 0.9)], [0, 1]),
        ([(0, 0, 10, 10, 1, True, 0.5), (0, 0, 10, 10, 0, True, 0.5)], [0, 1]),
        # Each says that it is the other's: adopted once.
        ([(0, 0, 10, 10, 0, False, 0.5), (0, 0, 10, 10, 1, False, 0.6)], [0, 1]),
        # Nobody else saw it.
        ([(0, 0, 10, 10, 0, False, 0.9)], [0]),
        # Two of the same tile are no witnesses for each other.
        ([(0, 0, 10, 10, 0, False, 0.9), (0, 0, 10, 10, 0, False, 0.9)], [0, 0]),
        # Neighbours that merely touch or overlap little both stay.
        ([(0, 0, 10, 10, 0, True, 0.9), (8, 0, 18, 10, 1, True, 0.9)], [1, 1]),
        # Merged by 0, split by 1, which owns one half: the pair stays one nucleus, or ...
        (
            [(0, 0, 20, 10, 0, True, 0.5), (0, 0, 10, 10, 1, False, 0.5), (10, 0, 20, 10, 1, True, 0.5)],
            [1, 0, 0],
        ),
        # ... where 0 does not own it, it is two, of which one is adopted: nothing is lost.
        (
            [(0, 0, 20, 10, 0, False, 0.5), (0, 0, 10, 10, 1, False, 0.5), (10, 0, 20, 10, 1, True, 0.5)],
            [0, 1, 1],
        ),
    ],
)
def test_rule(rows: list[tuple[float, float, float, float, int, bool, float]], expected: list[int]) -> None:
    assert resolve_seam(boxes(*rows)).tolist() == [bool(v) for v in expected]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_rule_does_not_depend_on_the_order_of_candidates(seed: int) -> None:
    candidates = _clutter(seed, 60)
    shuffle = np.random.default_rng(seed + 1).permutation(len(candidates))
    np.testing.assert_array_equal(resolve_seam(candidates)[shuffle], resolve_seam(candidates.take(shuffle)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_rule_keeps_a_maximal_set_without_conflicts(seed: int) -> None:
    candidates = _clutter(seed, 60)
    keep = resolve_seam(candidates)
    polygons, tile = candidates.geometry(), candidates.columns["tile"]
    shared = shapely.area(shapely.intersection(polygons[:, None], polygons[None]))
    areas = candidates.areas()
    union, smaller = areas[:, None] + areas - shared, np.minimum(areas[:, None], areas)
    conflict = ((shared / union >= 0.3) | (shared / smaller >= 0.6)) & (tile[:, None] != tile)
    assert not conflict[np.ix_(keep, keep)].any()
    eligible = candidates.columns["owned"] | conflict.any(1)
    assert (keep | conflict[:, keep].any(1))[eligible].all()
    assert not keep[~eligible].any()


def _clutter(seed: int, count: int) -> Nuclei:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 60, (count, 2))
    high = low + rng.uniform(5, 20, (count, 2))
    flags = zip(rng.integers(0, 4, count), rng.random(count) < 0.5, rng.random(count), strict=True)
    return boxes(*[(*a, *b, *f) for a, b, f in zip(low, high, flags, strict=True)])


# ---- streaming equals one shot


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), tile=st.sampled_from([16, 40, 64]), halo=st.sampled_from([0, 8, 24, 48]))
def test_stream_equals_one_shot_even_where_conflicts_chain_across_rows(seed: int, tile: int, halo: int) -> None:
    grid = TileGrid(150, 260, tile, halo)
    rng = np.random.default_rng(seed)
    count = 900
    place = rng.uniform(0, [150, 260], (count, 2))
    tiles = grid.owner(place)
    # Every candidate lies in its tile's read window, wherever its centroid is, and components are huge.
    windows = np.array([[w.x, w.y, w.x1, w.y1] for w in (grid.read(int(t)) for t in tiles)], dtype=float)
    size = rng.uniform(4, 30, (count, 2))
    shift = rng.uniform(-halo, halo, (count, 2)) if halo else 0
    low = np.clip(place + shift - size / 2, windows[:, :2], windows[:, 2:] - 1)
    high = np.minimum(low + size, windows[:, 2:])
    flags = zip(tiles, rng.random(count) < 0.5, rng.random(count), strict=True)
    everything = boxes(*[(*a, *b, *f) for a, b, f in zip(low, high, flags, strict=True)])
    everything = everything.take(np.argsort(tiles, kind="stable"))
    keep = resolve_seam(everything)
    expected = everything.take(keep)
    per_tile = {t: everything.take(everything.columns["tile"] == t) for t in range(len(grid))}
    result, _, _ = run(per_tile, grid, each(grid), scale=1.0)
    assert _rows(result) == _rows(expected)
    assert 0 < len(expected) < count


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), tile=st.sampled_from([128, 256]), data=st.data())
def test_where_the_stream_is_interrupted_changes_nothing(seed: int, tile: int, data: st.DataObject) -> None:
    grid = TileGrid(700, 900, tile, 64)
    tiles = predictions(tessellation(700, 900, seed), grid, seed)
    ends = sorted(data.draw(st.sets(st.integers(1, len(grid) - 1), max_size=len(grid) - 1)))
    batches = [list(range(a, b)) for a, b in itertools.pairwise([0, *ends, len(grid)])]
    cuts = (
        sorted(data.draw(st.sets(st.integers(1, len(batches)), max_size=len(batches)))) if len(batches) > 1 else []
    )
    cuts = [cut for cut in cuts if cut < len(batches)]
    whole, audit, sizes = run(tiles, grid, batches, scale=1.0, row_group=100)
    with tempfile.TemporaryDirectory() as folder:
        groups, pieced = run_in_pieces(tiles, grid, batches, cuts, Path(folder, "s.npz"))
    assert [len(group) for group in groups] == sizes
    result = Nuclei.concatenate(groups)
    np.testing.assert_array_equal(result.vertices, whole.vertices)
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(result.columns[name], column, err_msg=name)
    assert pieced == audit


def _rows(nuclei: Nuclei) -> list[tuple[float, ...]]:
    table = np.column_stack([nuclei.columns["tile"], nuclei.bounds(), nuclei.columns["score"]])
    return sorted(map(tuple, table.tolist()))


def test_memory_is_bounded_by_rows_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = tessellation(300, 3000, 1)
    grid = TileGrid(300, 3000, 100, 40)
    tiles = predictions(truth, grid, 1)
    sizes = []
    settle = stream.Pending.settle
    monkeypatch.setattr(
        stream.Pending,
        "settle",
        lambda self, *rest: (sizes.append(len(self.candidates)), settle(self, *rest))[1],
    )
    result, _, _ = run(tiles, grid, each(grid))
    assert len(result) == len(truth)
    seam = sum(int(part.columns["seam"].sum()) for part in tiles.values())
    assert len(sizes) == grid.rows
    assert max(sizes) < 3.5 * seam / grid.rows


def test_parts_are_read_at_most_two_rows_ahead_of_writing() -> None:
    truth = tessellation(300, 2000, 1)
    grid = TileGrid(300, 2000, 100, 40)
    tiles = predictions(truth, grid, 1)
    log: list[int] = []
    written: list[int] = []

    def read(part: int) -> Nuclei:
        log.append(part)
        return tiles[part]

    def write(nuclei: Nuclei) -> None:
        written.append(max(log) // grid.columns - int(nuclei.columns["tile"].min()) // grid.columns)

    stitch(read, [(t, t) for t in range(len(grid))], grid, Scale(1.0), write, band_px=BAND, row_group=1)
    assert len(written) == len(grid)
    assert max(written) <= 3
    assert sorted(log) == sorted([*range(len(grid)), *range(len(grid))])


# ---- file order, empty input, wrong input


def test_tiles_follow_the_grid_and_nuclei_a_hilbert_curve() -> None:
    truth = tessellation(600, 400, 2)
    grid = TileGrid(600, 400, 200, 64)
    result, _, groups = run(predictions(truth, grid, 2), grid, each(grid), row_group=150)
    tile = result.columns["tile"]
    assert (np.diff(tile) >= 0).all()
    assert len(groups) > 2
    assert all(a != b for a, b in zip(tile[np.cumsum(groups[:-1])], tile[np.cumsum(groups[:-1]) - 1], strict=True))
    steps = np.linalg.norm(np.diff(result.centroids(), axis=0), axis=1)[np.diff(tile) == 0]
    assert np.median(steps) < 1.5 * SPACING


def test_hilbert_curve_visits_neighbouring_cells_one_after_the_other() -> None:
    x, y = np.meshgrid(np.arange(16), np.arange(16))
    cells = np.stack([x.ravel(), y.ravel()], 1)
    distance = stream._hilbert(cells * 4096 + 7)
    assert len(np.unique(distance)) == 256
    path = cells[np.argsort(distance)]
    np.testing.assert_array_equal(np.abs(np.diff(path, axis=0)).sum(1), 1)


def test_no_nuclei_and_no_parts() -> None:
    grid = TileGrid(300, 200, 100, 40)
    calls: list[Nuclei] = []
    empty = boxes((0, 0, 1, 1, 0, True, 0.5)).take([])
    for ranges in ([], [(0, 2), (4, 5)]):
        audit = stitch(lambda _: empty, ranges, grid, Scale(1.0), calls.append, band_px=8)
        assert audit == Seams(0, 0, 0, None, None)
    assert calls == []
    assert len(select_candidates(Nuclei.empty(), grid, 0, 8.0)) == 0


def test_missing_tiles_do_not_disturb_the_others() -> None:
    truth = tessellation(700, 500, 8)
    grid = TileGrid(700, 500, 100, 40)
    tiles = predictions(truth, grid, 8)
    lost = [9, 10, 11, 23]
    rest = [t for t in range(len(grid)) if t not in lost]
    result, _, _ = run(tiles, grid, [rest[:5], rest[5:19], rest[19:]])
    counts = np.bincount(result.columns["truth"], minlength=len(truth))
    assert counts.max() == 1
    owner = grid.owner(truth.centroids())
    clear = grid.seam_distance(truth.centroids()) > 3
    assert (counts[clear & ~np.isin(owner, lost)] == 1).all()
    # What two other tiles saw at the edge of the lost area may be adopted; nothing beyond the band is.
    beyond = grid.seam_distance(truth.centroids()) > BAND + 3
    assert (counts[beyond & np.isin(owner, lost)] == 0).all()
    assert (beyond & np.isin(owner, lost)).sum() > 20


@pytest.mark.parametrize(
    ("ranges", "message"),
    [([(1, 1), (0, 0)], "not after"), ([(1, 1), (1, 2)], "not after"), ([(2, 3)], "holds tiles")],
)
def test_wrong_parts_are_refused(ranges: list[tuple[int, int]], message: str) -> None:
    parts = [boxes((0, 0, 5, 5, 1, True, 0.5)), boxes((0, 0, 5, 5, 0, True, 0.5))]
    with pytest.raises(ValueError, match=message):
        stitch(parts.__getitem__, ranges, TileGrid(300, 200, 100, 8), Scale(1.0), lambda _: None, band_px=8)


# ---- candidates


def test_candidates_are_what_a_tile_owns_and_its_band() -> None:
    grid = TileGrid(300, 200, 100, 40)
    nuclei = boxes(
        (140, 40, 160, 60, 0, False, 1),  # the middle of tile 1
        (100, 40, 110, 50, 0, False, 1),  # owned, at the seam
        (85, 40, 95, 50, 0, False, 1),  # tile 0's, in the band
        (60, 40, 80, 50, 0, False, 1),  # tile 0's, beyond the band
        (85, 105, 95, 115, 0, False, 1),  # across the corner, in the band
        (140, -20, 160, -10, 0, False, 1),  # above the slide: still tile 1's
        (112, 20, 150, 60, 0, False, 1),  # large: its bounds come near the seam
        (195, 120, 215, 130, 0, False, 1),  # in the band of one seam but far below the core
    )
    nuclei = nuclei.with_columns(row=np.arange(len(nuclei)))
    chosen = select_candidates(nuclei, grid, 1, 12.0)
    assert chosen.columns["row"].tolist() == [0, 1, 2, 4, 5, 6]
    assert chosen.columns["owned"].tolist() == [True, True, False, False, True, True]
    assert chosen.columns["seam"].tolist() == [False, True, True, True, False, True]
    assert set(chosen.columns["tile"]) == {1}


def test_a_single_tile_has_no_seam() -> None:
    grid = TileGrid(90, 90, 100, 40)
    chosen = select_candidates(boxes((0, 0, 8, 8, 0, False, 1), (80, 80, 95, 95, 0, False, 1)), grid, 0, 12.0)
    assert chosen.columns["owned"].all()
    assert not chosen.columns["seam"].any()


# ---- overlap


def _star(rng: np.random.Generator, lattice: bool) -> np.ndarray:
    count = rng.integers(3, 40)
    angle = np.sort(rng.uniform(0, 2 * np.pi, count))
    ring = rng.uniform(4, 12, (count, 1)) * np.stack([np.cos(angle), np.sin(angle)], 1)
    ring = ring + rng.uniform(-6, 6, 2) + 1e5
    return np.round(ring) if lattice else ring


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 100_000), lattice=st.booleans())
def test_common_area_equals_shapely(seed: int, lattice: bool) -> None:
    rng = np.random.default_rng(seed)
    rings = [_star(rng, lattice), _star(rng, lattice)]
    polygons = shapely.polygons([shapely.linearrings(ring) for ring in rings])
    if not shapely.is_valid(polygons).all():
        return
    nuclei = Nuclei(np.concatenate(rings), np.cumsum([0, *map(len, rings)]))
    expected = shapely.area(shapely.intersection(*polygons))
    got = nuclei.common_areas(np.array([[0, 1], [1, 0], [0, 0]]))
    np.testing.assert_allclose(got, [expected, expected, nuclei.areas()[0]], atol=1e-6)


def test_common_area_of_a_ring_that_crosses_itself_is_no_error() -> None:
    rings = np.array([[0.0, 0], [10, 10], [10, 0], [0, 10], [0, 0], [10, 0], [10, 10], [0, 10]])
    nuclei = Nuclei(rings, np.array([0, 4, 8]))
    assert 0 <= nuclei.common_areas(np.array([[0, 1]]))[0] <= 100


# ---- the audit


def _discs(grid: TileGrid, count: int, seed: int, *, anywhere: bool = False) -> Nuclei:
    """Crack outlines of discs on the lattice, in rows and far enough apart, or anywhere."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(count))
    x, y = np.meshgrid(np.linspace(20, grid.width - 20, side), np.linspace(20, grid.height - 20, side))
    centre = np.stack([x.ravel(), y.ravel()], 1) + rng.uniform(-8, 8, (x.size, 2))
    if anywhere:
        centre = rng.uniform(20, [grid.width - 20, grid.height - 20], (count, 2))
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = rng.uniform(5, 8, (len(centre), 1, 1)) * np.stack([np.cos(angle), np.sin(angle)], 1)
    vertices = np.round(centre[:, None] + ring).reshape(-1, 2)
    return Nuclei(vertices, np.arange(len(centre) + 1) * 24, {"truth": np.arange(len(centre))})


def test_audit_of_sound_seams_is_near_one() -> None:
    grid = TileGrid(2048, 2048, 256, 64)
    truth = _discs(grid, 6000, 4)
    _, audit, _ = run(predictions(truth, grid, 4, 0.0), grid, each(grid))
    assert audit.density_ratio == pytest.approx(1.0, abs=0.1)
    assert audit.straight_edge_ratio == pytest.approx(1.0, abs=0.5)
    near = grid.seam_distance(truth.centroids()) < BAND
    assert audit.band_nuclei == near.sum()


def test_audit_reveals_cut_nuclei() -> None:
    grid = TileGrid(2048, 2048, 256, 64)
    truth = _discs(grid, 6000, 4)

    def cut(nuclei: Nuclei, tile: int) -> Nuclei:
        core = grid.core(tile)
        clipped = np.clip(nuclei.vertices, [core.x, core.y], [core.x1, core.y1])
        return dataclasses.replace(nuclei, vertices=clipped)

    tiles = {t: cut(n.take(n.columns["owned"]), t) for t, n in predictions(truth, grid, 4, 0.0).items()}
    _, audit, _ = run(tiles, grid, each(grid))
    assert audit.straight_edge_ratio is not None
    assert audit.straight_edge_ratio > 3


def test_audit_tells_tiles_without_a_halo_from_tiles_with_one(drawn: tuple[Path, Truth]) -> None:
    segmenter = ClassicalSegmenter()
    audits = {}
    with open_slide(drawn[0]) as slide:
        scale = slide.scale(segmenter.mpp)
        width, height = scale.size(slide.width, slide.height)
        calibration = segmenter.calibrate([slide.read_window(Window(500, 500, 512, 512), scale)])
        for halo in (64, 0):
            grid = TileGrid(width, height, 256, halo)
            tiles = {}
            for tile in range(len(grid)):
                window = grid.read(tile)
                (found,) = segmenter.segment([slide.read_window(window, scale)], calibration)
                tiles[tile] = select_candidates(found.translate(window.x, window.y), grid, tile, 20.0)
            audits[halo] = run(tiles, grid, each(grid))[1]
    assert audits[64].straight_edge_ratio == pytest.approx(1.0, abs=0.5)
    assert audits[64].density_ratio == pytest.approx(1.0, abs=0.12)
    assert audits[0].straight_edge_ratio is not None
    assert audits[0].straight_edge_ratio > 3


@pytest.mark.parametrize(("tile", "count"), [(512, 400), (256, 3000), (256, 30_000)])
def test_chance_is_no_finding(tile: int, count: int) -> None:
    grid = TileGrid(2048, 2048, tile, 64)
    found = []
    for seed in range(20):
        discs = _discs(grid, count, seed, anywhere=True)
        tally = Tally(grid, Scale(1.0), 20.0)
        tally.result(discs.with_columns(tile=grid.owner(discs.centroids())), discs.centroids())
        found.append(tally.audit())
    densities = [audit.density_ratio for audit in found if audit.density_ratio is not None]
    edges = [audit.straight_edge_ratio for audit in found if audit.straight_edge_ratio is not None]
    assert len(densities) == 20
    assert max(abs(ratio - 1) for ratio in densities) < 0.12
    assert len(edges) == (20 if count > 400 else 0)  # too few touch a seam to say anything
    assert all(0.5 < ratio < 1.6 for ratio in edges)


def test_audit_reveals_lost_and_doubled_nuclei() -> None:
    grid = TileGrid(2048, 2048, 256, 64)
    truth = _discs(grid, 6000, 4)
    tiles = predictions(truth, grid, 4, 0.0)
    near = {t: grid.seam_distance(n.centroids()) < 4 for t, n in tiles.items()}
    _, sound, _ = run(tiles, grid, each(grid))
    _, lost, _ = run({t: n.take(~near[t]) for t, n in tiles.items()}, grid, each(grid))
    assert sound.density_ratio is not None
    assert lost.density_ratio is not None
    assert lost.density_ratio < sound.density_ratio - 0.1


# ---- part files


def test_part_round_trip(tmp_path: Path) -> None:
    part = boxes((0, 0, 5, 5, 1, True, 0.5), (1, 1, 7, 5, 1, False, 0.25))
    part = part.with_columns(area_um2=np.array([25, 24], dtype=np.float32))
    summary = {"tiles": [1], "lost": [], "seconds": 0.5, "note": "µm"}
    write_part(tmp_path / "a.arrow", part, summary)
    assert [f.name for f in tmp_path.iterdir()] == ["a.arrow"]
    assert read_part_summary(tmp_path / "a.arrow") == summary
    back = read_part(tmp_path / "a.arrow")
    np.testing.assert_array_equal(back.vertices, part.vertices)
    np.testing.assert_array_equal(back.offsets, part.offsets)
    assert {n: c.dtype for n, c in back.columns.items()} == {n: c.dtype for n, c in part.columns.items()}
    assert all((back.columns[n] == part.columns[n]).all() for n in part.columns)
    assert list(read_part(tmp_path / "a.arrow", ["score"]).columns) == ["score"]
    write_part(tmp_path / "a.arrow", part.take([]), {})
    assert len(read_part(tmp_path / "a.arrow")) == 0
    assert len(back.vertices) == 8  # the copy survives the file's replacement


def test_stitch_from_part_files(tmp_path: Path) -> None:
    truth = tessellation(500, 400, 6)
    grid = TileGrid(500, 400, 100, 40)
    tiles = predictions(truth, grid, 6)
    for tile, nuclei in tiles.items():
        write_part(tmp_path / f"{tile}.arrow", nuclei, {})
    got: list[Nuclei] = []
    reader: Callable[[int], Nuclei] = lambda part: read_part(tmp_path / f"{part}.arrow")  # noqa: E731
    stitch(reader, [(t, t) for t in range(len(grid))], grid, Scale(1.0), got.append, band_px=BAND)
    expected, _, _ = run(tiles, grid, each(grid), scale=1.0)
    assert Nuclei.concatenate(got).vertices.tobytes() == expected.vertices.tobytes()


def test_part_into_a_folder_that_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault):
        write_part(tmp_path / "file" / "a.arrow", boxes((0, 0, 5, 5, 1, True, 0.5)), {})
