"""Every kind of source: its patches and their order, what it says of itself, and what it is refused for."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsiseg.core.select import Select
from wsiseg.core.tables import parse_table
from wsiseg.errors import UsageError
from wsiseg.testing import Truth
from wsiseg.testing.training import FRAME, same, whole, write_snow
from wsiseg.train.patches import KNOWN, OUTSIDE, UNKNOWN, PatchPool
from wsiseg.train.source import Frame, Source
from wsiseg.train.sources import KINDS, cut
from wsiseg.train.sources.folder import FolderSource
from wsiseg.train.sources.images import ImagesSource
from wsiseg.train.sources.pseudo import PseudoSource
from wsiseg.train.sources.rendered import RenderedSource
from wsiseg.train.sources.run import RunSource
from wsiseg.train.sources.snow import SnowSource
from wsiseg.train.sources.synthetic import SyntheticSource

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sources(
    annotated: Path,
    patch_dataset: Path,
    drawn_results: Path,
    drawn: tuple[Path, Truth],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Source]:
    return {
        "folder": FolderSource(annotated, mpp=0.25, overlap=0.2, licence="CC0"),
        "pseudo": PseudoSource(
            ImagesSource(annotated / "images", mpp=0.25, licence="CC0"), Path("unet-0.5"), scales=(1.0,), sure=0.5
        ),
        "rendered": RenderedSource(annotated / "images", count=20, size=64, licence="CC0"),
        "synthetic": SyntheticSource(patch_dataset, licence="CC0"),
        "snow": SnowSource(write_snow(tmp_path_factory.mktemp("snow") / "tiles"), overlap=0.5, licence="CC0"),
        "run": RunSource(drawn_results, count=70, sure=0.5, licence="CC0"),
        "images": ImagesSource(drawn[0], count=12, licence="CC0"),
    }


def moved(source: Source, data: Path) -> Source:
    """The source with its data elsewhere."""
    if isinstance(source, PseudoSource):
        return dataclasses.replace(source, images=dataclasses.replace(source.images, data=data))
    return dataclasses.replace(source, data=data)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_gives_patches_in_one_order(sources: dict[str, Source], kind: str) -> None:
    source = sources[kind]
    assert isinstance(source, Source)
    parts = list(source.parts(FRAME, 0))
    assert all(0 < len(part) <= cut.PIECE for part in parts)
    pool = PatchPool.join(parts)
    assert same(pool, whole(source))
    middle = len(pool) // 2
    assert same(pool.part(slice(middle, None)), whole(source, first=middle))
    assert list(source.parts(FRAME, len(pool))) == []
    assert pool.images.dtype == np.uint8
    assert pool.covered.dtype == np.uint8
    assert pool.weight.dtype == np.float32
    for labels, covered, known in zip(pool.labels, pool.covered, pool.known, strict=True):
        assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, labels.max() + 1))
        if kind != "pseudo":  # whose outlines are finer than its maps
            assert (covered[labels > 0] >= 127).all()  # half of it or more
        assert set(np.unique(known)) <= {UNKNOWN, KNOWN, OUTSIDE}
        assert (labels[known == OUTSIDE] == 0).all()
    if kind != "images":
        assert pool.labels.max() > 2
        red = pool.images[..., 0][pool.known == KNOWN].astype(float)
        inside = (pool.labels > 0)[pool.known == KNOWN]
        assert red[inside].mean() < red[~inside].mean() - 20


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_describes_itself(sources: dict[str, Source], kind: str, tmp_path: Path) -> None:
    source = sources[kind]
    described = source.describe(FRAME)
    assert described["kind"] == kind
    text = json.dumps(described)
    assert "/" not in text  # no path: the same data elsewhere are the same
    assert described == source.describe(FRAME)
    assert described != source.describe(Frame(mpp=0.25, side=48))
    assert all("CC0" in line for line in source.statements())
    # The same data elsewhere.
    data: Path = (source.images if isinstance(source, PseudoSource) else source).data  # type: ignore[attr-defined]
    there = tmp_path / data.name
    (shutil.copytree if data.is_dir() else shutil.copy)(data, there)
    assert moved(source, there).describe(FRAME) == described


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_read_from_a_recipe(kind: str, tmp_path: Path) -> None:
    where = "data.train[0]"
    table: dict[str, Any] = {"data": str(tmp_path), "licence": "CC0", "select": {"part": "training", "every": 5}}
    values: dict[str, Any] = {"data": tmp_path, "licence": "CC0", "select": Select(part="training", every=5)}
    if kind == "folder":
        table["mpp"] = values["mpp"] = 0.25
    if kind == "pseudo":
        table, where = {"images": table, "network": "unet-0.5"}, f"{where}.images"
        values = {"images": ImagesSource(**values), "network": Path("unet-0.5")}
    source = parse_table(KINDS[kind], table, "data.train[0]")
    assert source == KINDS[kind](**values)
    with pytest.raises(UsageError, match=r"data\.train\[0\]\.oops: unknown key"):
        parse_table(KINDS[kind], {**table, "oops": 1}, "data.train[0]")
    wrong = {"data": 3}
    with pytest.raises(UsageError, match=rf"{re.escape(where)}\.data: got 3"):
        parse_table(KINDS[kind], {**table, **({"images": wrong} if kind == "pseudo" else wrong)}, "data.train[0]")
    if kind != "rendered":
        with pytest.raises(UsageError, match=r"there is no such|no such file|is no dataset|no \.mat files"):
            moved(source, tmp_path / "none").describe(FRAME)


def test_other_data_are_described_otherwise(annotated: Path, tmp_path: Path) -> None:
    source = FolderSource(shutil.copytree(annotated, tmp_path / "copy"), mpp=0.25)
    before = source.describe(FRAME)
    path = source.data / "labels" / "c.png"
    labels = np.array(Image.open(path))
    labels[0, 0] += 1
    Image.fromarray(labels).save(path)
    assert source.describe(FRAME) != before


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("folder", {}, "0 of mpp, mpp_table and nucleus_um"),
        ("folder", {"mpp": 0.25, "nucleus_um": 8.0}, "2 of mpp"),
        ("folder", {"mpp": 0.0}, "expected microns"),
        ("folder", {"mpp": 0.25, "select": {"key": "split"}}, r"\.select: .*key and values together"),
        ("folder", {"mpp": 0.25, "select": {"key": "split", "values": ["a"]}}, r"\.select: .*without a table"),
        ("folder", {"mpp": 0.25, "select": "training"}, r"\.select: got 'training'; expected a table"),
        ("folder", {"mpp": 0.25, "select": {"tabel": "a.txt"}}, r"\.select\.tabel: unknown key .*mean 'table'"),
        ("folder", {"mpp": 0.25, "images": ".", "labels": "."}, "the same files"),
        ("folder", {"mpp": 0.25, "overlap": 1.0}, "overlap 1.0"),
        ("folder", {"mpp": 0.25, "select": {"every": 1}}, "every 1"),
        ("folder", {"mpp": 0.25, "select": {"part": "test"}}, r"\.select\.part: .*one of 'all', 'training'"),
        ("snow", {"mpp": -1.0}, "expected microns"),
        ("rendered", {"count": 0}, "count 0"),
        ("rendered", {"size": 101}, "even number"),
        ("rendered", {"stain_transfer": 2.0}, "stain_transfer 2.0"),
        ("synthetic", {"select": {"span": [0.5, 0.5]}}, "expected two fractions"),
        ("snow", {"select": {"span": [0.0, 1.5]}}, "expected two fractions"),
        ("synthetic", {"select": {"span": [0.5]}}, r"\.select\.span: .*expected an array of 2"),
        ("synthetic", {"select": {"table": "names.txt"}}, "have no names"),
        ("images", {"mpp": 0.25, "mpp_table": "m.csv"}, "expected one of them"),
        ("images", {"count": 0}, "count 0"),
        ("run", {"sure": 1.5}, "sure 1.5"),
        ("run", {"margin_um": -1.0}, "margin_um -1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(kind: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"data\.train\[2\].*{message}"):
        parse_table(KINDS[kind], {"data": "x", **values}, "data.train[2]")
