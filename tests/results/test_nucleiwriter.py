"""``nuclei.parquet`` that grows: the bytes of one that was written at once, and readable at every stage."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.core.geometry import Box
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.sealed import describe_file, is_intact
from wsiseg.results.nuclei import ATTRIBUTES, TYPE, TYPE_PROB, iter_nuclei, read_nuclei
from wsiseg.results.nucleiwriter import Grown, NucleiFormat, Stretch, complete
from wsiseg.results.rowgroups import read_metadata
from wsiseg.testing.nucleifile import NucleiWriter

TYPES = ("epithelial", "stromal", "other")
FORMATS = {
    "plain": NucleiFormat({"slide": "a.svs", "mpp": 0.25}, ATTRIBUTES),
    "typed": NucleiFormat({"slide": "a.svs"}, {"score": "float32"}, TYPES),
}


def nuclei(count: int, seed: int) -> Nuclei:
    """Polygons with every attribute, of random types."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 30, count)
    vertices = rng.uniform(0, 1000, (count, 1, 2)).repeat(30, axis=1) + rng.uniform(0, 20, (count, 30, 2))
    kept = np.concatenate([vertices[i, :n] for i, n in enumerate(sizes)]) if count else np.empty((0, 2))
    columns = {name: rng.random(count).astype(np.float32) for name in [*ATTRIBUTES, TYPE_PROB]}
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Nuclei(kept, offsets, {**columns, TYPE: rng.integers(0, len(TYPES), count).astype(np.int16)})


def grow(path: Path, declared: NucleiFormat, stretches: list[list[Nuclei]]) -> Grown:
    grown = Grown.nothing(declared)
    for groups in stretches:
        stretch = Stretch(declared, grown)
        for group in groups:
            stretch.write(group)
        grown = stretch.append(path)
    return grown


def at_once(path: Path, declared: NucleiFormat, groups: list[Nuclei]) -> bytes:
    with NucleiWriter(path, declared.metadata, declared.attributes, declared.types) as writer:
        for group in groups:
            writer.write(group)
    return path.read_bytes()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0, 1, 3, 40, 400]), max_size=3), max_size=4),
    st.sampled_from(sorted(FORMATS)),
    st.integers(0, 99),
)
def test_the_bytes_are_those_of_a_file_written_at_once(sizes: list[list[int]], name: str, seed: int) -> None:
    declared = FORMATS[name]
    stretches = [[nuclei(count, seed + 7 * n + k) for k, count in enumerate(of)] for n, of in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "grown.parquet")
        grown = grow(path, declared, stretches)
        note = complete(path, declared, grown)
        groups = [group for stretch in stretches for group in stretch]
        assert path.read_bytes() == at_once(Path(folder, "once.parquet"), declared, groups)
        assert note == describe_file(path)
        assert is_intact(path, note)
        assert grown.written.count == sum(map(sum, sizes))
        if declared.types:
            counted = np.bincount(np.concatenate([[], *(group.columns[TYPE] for group in groups)]).astype(int))
            assert sum(grown.written.by_type) == counted.sum()
            assert grown.written.by_type[: len(counted)] == tuple(counted) or not grown.written.count


def test_it_is_read_while_it_grows(tmp_path: Path) -> None:
    declared, path = FORMATS["typed"], tmp_path / "n.parquet"
    groups = [nuclei(300, seed) for seed in range(4)]
    first = grow(path, declared, [groups[:2]])
    before = read_nuclei(path, metadata=read_metadata(first.footer))
    later = Stretch(declared, first)
    for group in groups[2:]:
        later.write(group)
    second = later.append(path)
    # A reader that has the earlier footer reads on as before.
    again = read_nuclei(path, metadata=read_metadata(first.footer))
    np.testing.assert_array_equal(again.vertices, before.vertices)
    np.testing.assert_array_equal(again.columns[TYPE], np.concatenate([g.columns[TYPE] for g in groups[:2]]))
    box = Box(100, 100, 300, 300)
    some = read_nuclei(path, box, columns=["id"], metadata=read_metadata(second.footer))
    complete(path, declared, second)
    whole = read_nuclei(path, box, columns=["id"])
    assert len(whole) > 0
    assert some.columns["id"].tolist() == whole.columns["id"].tolist()
    assert [len(group) for group in iter_nuclei(path)] == [300] * 4


def test_a_stretch_may_be_appended_twice_and_after_a_longer_one(tmp_path: Path) -> None:
    """As where a worker died after it had written, or its work was given to two."""
    declared, path = FORMATS["plain"], tmp_path / "n.parquet"
    groups = [nuclei(200, seed) for seed in range(3)]
    first = grow(path, declared, [groups[:1]])

    def append(after: Grown, group: Nuclei) -> Grown:
        stretch = Stretch(declared, after)
        stretch.write(group)
        return stretch.append(path)

    second = append(first, groups[1])
    complete(path, declared, append(second, groups[2]))  # begun, and then forgotten
    assert append(first, groups[1]) == second
    complete(path, declared, second)
    assert path.read_bytes() == at_once(tmp_path / "once.parquet", declared, groups[:2])


@pytest.mark.parametrize("damage", ["shorter", "other", "gone"])
def test_what_was_damaged_is_not_gone_on_with(tmp_path: Path, damage: str) -> None:
    declared, path = FORMATS["plain"], tmp_path / "n.parquet"
    grown = grow(path, declared, [[nuclei(50, 1)]])
    assert grown.is_in(path)
    content = path.read_bytes()
    path.write_bytes(content + b"more")
    assert grown.is_in(path)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "shorter" else content[:-1] + bytes([content[-1] ^ 1]))
    assert not grown.is_in(path)


def test_places_of_dictionaries_are_moved_as_well(tmp_path: Path) -> None:
    declared, path = FORMATS["typed"], tmp_path / "n.parquet"
    complete(path, declared, grow(path, declared, [[nuclei(90, 1)], [nuclei(90, 2)]]))
    metadata = pq.read_metadata(path)
    columns = [metadata.schema.column(k).path for k in range(metadata.num_columns)]
    places = [metadata.row_group(g).column(columns.index(TYPE)).dictionary_page_offset for g in range(2)]
    assert 4 < places[0] < places[1] < path.stat().st_size
