"""Sources of training patches: each kind's patches, their order, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsiseg.errors import MissingMppError, ModelError, UsageError
from wsiseg.formats import snow
from wsiseg.formats.geoparquet import read_nuclei
from wsiseg.nuclei import Nuclei
from wsiseg.pipeline import SegmentOptions, segment_slides
from wsiseg.schedule import SerialExecutor
from wsiseg.segment import ModelChoice
from wsiseg.synth.dataset import Block, create_dataset, finish_dataset, write_block
from wsiseg.synth.render import REVISION, Patch, halve
from wsiseg.testing import Truth
from wsiseg.train.patches import KNOWN, NAMES, OUTSIDE, UNKNOWN, PatchPool
from wsiseg.train.source import Frame, Source
from wsiseg.train.sources import KINDS, cut, files
from wsiseg.train.sources.folder import FolderSource
from wsiseg.train.sources.images import ImagesSource
from wsiseg.train.sources.pseudo import PseudoSource
from wsiseg.train.sources.rendered import RenderedSource, nuclear_pixels
from wsiseg.train.sources.run import RunSource
from wsiseg.train.sources.select import Select
from wsiseg.train.sources.slides import apportion
from wsiseg.train.sources.snow import SnowSource
from wsiseg.train.sources.synthetic import SyntheticSource
from wsiseg.train.tables import parse_table
from wsiseg.train.views import look, whole_view

FRAME = Frame(mpp=0.5, side=48)
DARK, PALE = (90, 60, 130), (230, 190, 215)


def discs(seed: int, height: int = 160, width: int = 160, count: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Dark discs on a light, textured ground: image and labels with gaps between their numbers."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((height, width), dtype=np.uint16)
    for n in range(count):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        labels[(np.hypot(y - cy, x - cx) < rng.uniform(6, 11)) & (labels == 0)] = 3 * n + 2
    image = np.where(labels[..., None] > 0, DARK, PALE) + rng.normal(0, 6, (height, width, 1))
    return image.clip(0, 255).astype(np.uint8), labels


def write_folder(folder: Path, count: int = 5, **size: int) -> Path:
    """``images`` and ``labels`` in ``folder``, named a, b, …, and tables of their names."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    names = [chr(ord("a") + n) for n in range(count)]
    for n, name in enumerate(names):
        image, labels = discs(n, **size)
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{name}.png")
    (folder / "names.txt").write_text("# the good ones\nb.png\n\nd\n")
    rows = [{"name": n, "split": "train" if n < "c" else "test"} for n in names]
    (folder / "index.csv").write_text("id,split\n" + "".join(f"{row['name']},{row['split']}\n" for row in rows))
    (folder / "index.json").write_text(json.dumps({"licence": "CC0", "size": [1, 2], "images": rows}))
    return folder


def write_dataset(path: Path, count: int = 40, side: int = 96) -> Path:
    provenance = {"method": "test", "seed": 3, "textures": [{"name": "t", "sha256": "0"}]}
    create_dataset(path, count, (side, side), 0.25, provenance)
    pairs = [discs(n, side, side, 6) for n in range(count)]
    for block, start in enumerate(range(0, count, 32)):
        part = pairs[start : start + 32]
        weight = np.linspace(0.2, 2, count, dtype=np.float32)[start : start + 32]
        images, labels = np.stack([i for i, _ in part]), np.stack([x for _, x in part]).astype(np.int32)
        write_block(path, block, Block(images, labels, weight, np.zeros(len(part), dtype=np.int32)))
    finish_dataset(path)
    return path


def write_snow(folder: Path, count: int = 3, side: int = 128) -> Path:
    (folder / "Mask").mkdir(parents=True)
    for n in range(count):
        image, labels = discs(n, side, side)
        snow.write_image(folder / "Image" / f"{snow.tile_name(n)}.png", image)
        snow.write_mask(folder / "Mask" / f"{snow.tile_name(n)}.mat", labels)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pairs") / "annotated")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset") / "patches.zarr")


@pytest.fixture(scope="module")
def results(drawn: tuple[Path, Truth], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    options = SegmentOptions(ModelChoice("classical", "cpu"), tile=512)
    assert segment_slides([drawn[0]], out, options, SerialExecutor(), lambda event: None).exit_code == 0
    return out


@pytest.fixture(scope="module")
def sources(
    folder: Path, dataset: Path, results: Path, drawn: tuple[Path, Truth], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Source]:
    return {
        "folder": FolderSource(folder, mpp=0.25, overlap=0.2, licence="CC0"),
        "pseudo": PseudoSource(
            ImagesSource(folder / "images", mpp=0.25, licence="CC0"), Path("unet-0.5"), scales=(1.0,), sure=0.5
        ),
        "rendered": RenderedSource(folder / "images", count=20, size=64, licence="CC0"),
        "synthetic": SyntheticSource(dataset, licence="CC0"),
        "snow": SnowSource(write_snow(tmp_path_factory.mktemp("snow") / "tiles"), overlap=0.5, licence="CC0"),
        "run": RunSource(results, count=70, sure=0.5, licence="CC0"),
        "images": ImagesSource(drawn[0], count=12, licence="CC0"),
    }


def whole(source: Source, frame: Frame = FRAME, first: int = 0) -> PatchPool:
    return PatchPool.join(list(source.parts(frame, first)))


def moved(source: Source, data: Path) -> Source:
    """The source with its data elsewhere."""
    if isinstance(source, PseudoSource):
        return dataclasses.replace(source, images=dataclasses.replace(source.images, data=data))
    return dataclasses.replace(source, data=data)


def same(one: PatchPool, other: PatchPool) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in NAMES)


# --- every kind


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


def test_other_data_are_described_otherwise(folder: Path, tmp_path: Path) -> None:
    source = FolderSource(shutil.copytree(folder, tmp_path / "copy"), mpp=0.25)
    before = source.describe(FRAME)
    path = source.data / "labels" / "c.png"
    labels = np.array(Image.open(path))
    labels[0, 0] += 1
    Image.fromarray(labels).save(path)
    assert source.describe(FRAME) != before


# --- cutting


def test_halving_by_hand() -> None:
    labels = np.array([[1, 1, 2, 0], [1, 0, 2, 0], [5, 6, 0, 0], [6, 7, 0, 8]])
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    half = cut.rescale(image, labels, 0.5)
    assert half.labels.tolist() == [[1, 2], [6, 0]]
    assert half.covered.tolist() == [[191, 128], [255, 64]]
    assert half.image[0, 0].tolist() == [8, 9, 10]  # means of 0, 3, 12, 15 and so on: 7.5, 8.5, 9.5
    assert (half.known == KNOWN).all()


@given(st.integers(0, 1000))
def test_halving_is_the_renderers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (12, 16)).astype(np.int32)
    image = rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    small, ids, covered = halve(Patch(image, labels))
    half = cut.rescale(image, labels, 0.5)
    assert np.array_equal(half.covered, np.rint(covered * 255))
    assert np.array_equal(half.labels > 0, ids > 0)
    assert np.array_equal(half.labels, ids)
    assert np.abs(half.image.astype(int) - small).max() <= 1


@pytest.mark.parametrize("factor", [0.4, 0.5, 0.73, 1.0, 1.6])
def test_any_scale_keeps_nuclei_where_they_are(factor: float) -> None:
    image, labels = discs(5, 150, 190)
    scaled = cut.rescale(image, labels.astype(np.int32), factor)
    assert scaled.labels.shape == cut.scaled_size((150, 190), factor) == scaled.image.shape[:2]
    down, across = (n / m for n, m in zip(scaled.labels.shape, labels.shape, strict=True))  # the factor, rounded
    for label in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == label)
        if len(rows) < 60:
            continue
        y, x = np.nonzero(scaled.labels == label)
        assert len(y) == pytest.approx(len(rows) * down * across, rel=0.15)
        assert (y + 0.5).mean() == pytest.approx((rows + 0.5).mean() * down, abs=0.4)
        assert (x + 0.5).mean() == pytest.approx((columns + 0.5).mean() * across, abs=0.4)
    assert scaled.covered.mean() / 255 == pytest.approx((labels > 0).mean(), abs=0.01)


@given(st.integers(1, 400), st.integers(1, 90), st.floats(0, 0.9))
def test_places_cover_an_image_and_overlap(length: int, side: int, overlap: float) -> None:
    found = cut.places("n", (length, side), (side, side), overlap)
    starts = [place.y for place in found]
    assert {place.x for place in found} == {0}
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert starts[-1] == max(0, length - side)
    steps = np.diff(starts)
    assert (steps <= max(1, np.ceil(side * (1 - overlap)))).all()
    if len(steps):  # no more patches than are needed
        assert (len(steps) - 1) * max(1, side * (1 - overlap)) < length - side


def test_what_lies_beyond_an_image_is_outside_and_cuts_nuclei() -> None:
    labels = np.zeros((20, 30), dtype=np.int32)
    labels[14:20, 3:9] = 70  # at the image's lower edge
    labels[4:9, 15:20] = 40  # whole
    labels[2:6, 22:30] = 90  # at the right edge, which is the patch's as well
    image = np.where(labels[..., None] > 0, DARK, PALE).astype(np.uint8)
    pool = cut.patch(cut.rescale(image, labels, 1.0, weight=0.5), 0, 0, (30, 30))
    assert pool.labels[0].max() == 3
    assert (pool.known[0, :20] == KNOWN).all()
    assert (pool.known[0, 20:] == OUTSIDE).all()
    assert (pool.labels[0, 20:] == 0).all()
    assert np.array_equal(pool.images[0, 25], pool.images[0, 19])
    assert pool.weight.tolist() == [0.5]
    assert look(pool, 0, whole_view((30, 30), 30), 0).cut[1:].tolist() == [False, True, True]


def test_a_crop_cuts_its_nuclei() -> None:
    labels = np.zeros((40, 40), dtype=np.int32)
    labels[10:20, 10:20] = 5
    labels[18:26, 30:36] = 6
    source = cut.rescale(np.zeros((40, 40, 3), dtype=np.uint8), labels, 1.0)
    pool = cut.patch(source, 15, 0, (25, 40))
    assert (pool.known == KNOWN).all()
    assert look(pool, 0, whole_view((25, 40), 40), 0).cut[1:].tolist() == [True, False]


# --- folders


def names_of(folder: Path, select: Select) -> list[str]:
    return list(FolderSource(folder, mpp=0.25, select=select).pairs())


def test_tables_choose_images(folder: Path) -> None:
    assert names_of(folder, Select("names.txt")) == ["b", "d"]
    for table in ("index.csv", "index.json"):
        assert names_of(folder, Select(table, "split", ("train",))) == ["a", "b"]
        assert names_of(folder, Select(table)) == ["a", "b", "c", "d", "e"]
    images = ImagesSource(folder / "images", mpp=0.25, select=Select("../names.txt"))
    assert len(whole(images, Frame(0.25, 160))) == 2
    rendered = RenderedSource(folder / "images", select=Select("../names.txt"))
    assert "2 textures" in rendered.statements()[0]


def test_training_and_validation_part(folder: Path) -> None:
    for part, names in (("training", ["a", "c", "e"]), ("validation", ["b", "d"])):
        assert names_of(folder, Select(part=part, every=2)) == names  # type: ignore[arg-type]


def test_spans_divide_without_a_rest(folder: Path) -> None:
    spans = [(0.0, 0.4), (0.4, 0.6), (0.6, 1.0)]
    assert [names_of(folder, Select(span=span)) for span in spans] == [["a", "b"], ["c"], ["d", "e"]]
    counts = [len(Select(span=s).numbered(range(5000), "")) for s in ((0, 0.72), (0.72, 0.8), (0.8, 1.0))]
    assert counts == [3600, 400, 1000]


def test_a_table_comes_before_a_span_and_a_span_before_a_part(folder: Path) -> None:
    split = Select("index.json", "split", ("test",))
    assert names_of(folder, split) == ["c", "d", "e"]
    assert names_of(folder, dataclasses.replace(split, span=(0.0, 0.67))) == ["c", "d"]
    assert names_of(folder, dataclasses.replace(split, span=(0.0, 0.67), part="validation", every=2)) == ["d"]


def test_what_is_not_meant_needs_no_labels(folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(folder, tmp_path / "some")
    (base / "labels" / "c.png").unlink()
    assert names_of(base, Select("names.txt")) == ["b", "d"]
    assert names_of(base, Select(span=(0.6, 1.0))) == ["d", "e"]
    with pytest.raises(UsageError, match="no labels for c"):
        names_of(base, Select())


def test_images_are_cut_at_the_frames_scale(folder: Path) -> None:
    assert whole(FolderSource(folder, mpp=0.25)).images.shape == (5 * 4, 48, 48, 3)  # 80 px in two, 64 px apart
    assert whole(FolderSource(folder, mpp=0.25), Frame(0.5, 80)).images.shape == (5, 80, 80, 3)
    small = whole(FolderSource(folder, mpp=0.25), Frame(0.5, 200))
    assert small.images.shape == (5, 80, 80, 3)  # all of one size: as they are
    assert (small.known == KNOWN).all()


def test_images_of_several_sizes_are_padded(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "two")
    image, labels = discs(9, 60, 90)
    Image.fromarray(image).save(other / "images" / "f.webp", lossless=True)
    np.save(other / "labels" / "f.npy", labels)
    pool = whole(FolderSource(other, mpp=0.5), Frame(0.5, 100))
    assert pool.images.shape == (5 * 4 + 1, 100, 100, 3)
    assert (pool.known[-1, :60, :90] == KNOWN).all()
    assert (pool.known[-1] == OUTSIDE).sum() == 100 * 100 - 60 * 90
    assert np.array_equal(pool.images[-1, :60, :90], image)
    _, expected = np.unique(labels, return_inverse=True)
    assert np.array_equal(pool.labels[-1, :60, :90], expected.reshape(labels.shape))


def test_labels_of_every_width(tmp_path: Path) -> None:
    image, labels = discs(1, 64, 64)
    base = write_folder(tmp_path / "d", 1, height=64, width=64)
    Image.fromarray(image).save(base / "images" / "a.png")
    (base / "labels" / "a.png").unlink()
    pools = []
    wide = labels.astype(np.uint32)
    wide[wide > 0] += np.uint32(4_000_000_000)
    for array in (labels.astype(np.uint8), labels, labels.astype(np.int32), wide, labels.astype(np.float64)):
        np.save(base / "labels" / "a.npy", array)
        pools.append(whole(FolderSource(base, mpp=0.5)))
    assert pools[0].labels.max() > 3
    assert all(same(pools[0], pool) for pool in pools)


def test_masks_become_their_components(folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(folder, tmp_path / "masks")
    for path in (base / "labels").iterdir():
        Image.fromarray((np.array(Image.open(path)) > 0).astype(np.uint8) * 255).save(path)
    as_one = whole(FolderSource(base, mpp=0.5), Frame(0.5, 160))
    split = whole(FolderSource(base, mpp=0.5, mask=True), Frame(0.5, 160))
    assert as_one.labels.max() == 1
    assert split.labels.max() > 5
    assert np.array_equal(as_one.covered, split.covered)


def test_endings_tell_files_of_one_folder_apart(tmp_path: Path) -> None:
    """The names of Hou et al.'s annotated patches."""
    for n in range(3):
        image, labels = discs(n, 64, 64)
        Image.fromarray(image).save(tmp_path / f"{n}_crop.png")
        Image.fromarray(labels).save(tmp_path / f"{n}_labeled_mask_corrected.png")
    source = FolderSource(
        tmp_path, images=".", labels=".", image_ending="_crop", label_ending="_labeled_mask_corrected", mpp=0.25
    )
    assert list(source.pairs()) == ["0", "1", "2"]
    for n in range(3):
        (tmp_path / f"{n}_crop.png").rename(tmp_path / f"{n}.png")
    bare = FolderSource(tmp_path, images=".", labels=".", label_ending="_labeled_mask_corrected", mpp=0.25)
    assert list(bare.pairs()) == ["0", "1", "2"]


def test_the_scale_follows_from_the_nuclei(tmp_path: Path) -> None:
    """Squares of 10 and of 20 pixels, said to be 8 µm wide: the first image has half the resolution."""
    base = write_folder(tmp_path / "d", 0)
    for name, side in (("a", 10), ("b", 20), ("c", 0)):
        labels = np.zeros((100, 100), dtype=np.uint8)
        for k in range(3 if side else 0):
            labels[30 * k : 30 * k + side, 40 : 40 + side] = k + 1
        Image.fromarray(labels).save(base / "labels" / f"{name}.png")
        Image.fromarray(np.full((100, 100, 3), 200, dtype=np.uint8)).save(base / "images" / f"{name}.png")
    width = 8 * np.sqrt(4 / np.pi)  # the diameter of the circle of a square of 8 µm
    pool = whole(FolderSource(base, nucleus_um=width), Frame(mpp=0.4, side=400))
    sizes = [np.bincount(labels.ravel())[1:].tolist() for labels in pool.labels]
    assert sizes == [[400, 400, 400], [400, 400, 400], []]
    inside = [(known == KNOWN).sum() for known in pool.known]
    assert inside == [200**2, 100**2, 133**2]  # the third: the median of 0.8 and 0.4 µm


def test_each_image_has_its_own_scale(folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(folder, tmp_path / "table")
    (base / "mpp.csv").write_text("slide,mpp\na,0.25\nb.png,0.5\nc,0.25\nd,0.25\ne,0.25\n")
    pool = whole(FolderSource(base, mpp_table="mpp.csv", select=Select("names.txt")), Frame(0.5, 160))
    assert [(known == KNOWN).sum() for known in pool.known] == [160**2, 80**2]


BAD_FOLDERS: list[tuple[dict[str, Any], str]] = [
    ({"select": Select("none.txt")}, "cannot be read as a table"),
    ({"select": Select("index.json", "organ", ("x",))}, "no column 'organ'"),
    ({"select": Select("index.json", "split", ("x",))}, "no row whose split is one of"),
    ({"images": "none"}, "no such folder"),
    ({"label_ending": "_mask"}, "no files ending in _mask"),
    ({"select": Select(part="validation", every=50)}, "of 5 none is in the part 'validation'; every is 50"),
    ({"select": Select(span=(0.45, 0.5))}, r"none is in the part 'all' between the fractions \[0.45, 0.5\]"),
]


@pytest.mark.parametrize(("change", "message"), BAD_FOLDERS)
def test_a_folder_that_does_not_fit_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FolderSource(folder, mpp=0.25, **change).describe(FRAME)


def damage(folder: Path, what: str) -> None:
    image, labels = folder / "images" / "c.png", folder / "labels" / "c.png"
    if what == "no labels":
        labels.unlink()
    elif what == "damaged image":
        image.write_bytes(image.read_bytes()[:300])
    elif what == "damaged labels":
        labels.write_bytes(b"no picture")
    elif what == "other size":
        Image.fromarray(np.zeros((160, 150), dtype=np.uint8)).save(labels)
    elif what == "colours":
        Image.fromarray(np.zeros((160, 160, 3), dtype=np.uint8)).save(labels)
    elif what == "fractions":
        labels.unlink()
        np.save(labels.with_suffix(".npy"), np.full((160, 160), 0.5))
    elif what == "float image":
        image.unlink()
        np.save(image.with_suffix(".npy"), np.zeros((160, 160, 3)))
    elif what == "torn array":
        image.unlink()
        np.save(image.with_suffix(".npy"), np.zeros((160, 160, 3), dtype=np.uint8))
        image.with_suffix(".npy").write_bytes(image.with_suffix(".npy").read_bytes()[:200])
    elif what == "objects":
        image.unlink()
        np.save(image.with_suffix(".npy"), np.array([{}, {}], dtype=object), allow_pickle=True)
    elif what == "two of a name":
        Image.open(image).save(image.with_suffix(".webp"))
    elif what == "nothing":
        shutil.rmtree(image.parent)
        image.parent.mkdir()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no labels", "no labels for c in"),
        ("damaged image", "c.png.*cannot be decoded"),
        ("damaged labels", "c.png: cannot be read as a label image"),
        ("other size", "labels of 150 × 160 pixels for an image of 160 × 160"),
        ("colours", "expected one plane"),
        ("fractions", "expected whole numbers"),
        ("float image", "expected uint8"),
        ("torn array", "cannot be read as an array"),
        ("objects", "cannot be read as an array"),
        ("two of a name", "have the same name 'c'"),
        ("nothing", "no files of images"),
    ],
)
def test_bad_pairs_are_named(folder: Path, tmp_path: Path, what: str, message: str) -> None:
    base = shutil.copytree(folder, tmp_path / "bad")
    damage(base, what)
    with pytest.raises(UsageError, match=f"(?s){message}"):
        whole(FolderSource(base, mpp=0.25))


def test_images_without_nuclei_say_nothing_of_their_scale(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "d", 2)
    for path in (base / "labels").iterdir():
        Image.fromarray(np.zeros((160, 160), dtype=np.uint8)).save(path)
    with pytest.raises(UsageError, match="give mpp"):
        whole(FolderSource(base, nucleus_um=8.0))


def test_a_table_must_list_all_images(folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(folder, tmp_path / "table")
    (base / "mpp.csv").write_text("slide,mpp\na,0.25\n")
    with pytest.raises(UsageError, match=r"no mpp of b \(4 missing\)"):
        whole(FolderSource(base, mpp_table="mpp.csv"))
    (base / "names.txt").write_text("a\nz\n")
    with pytest.raises(UsageError, match=r"names\.txt: names z, but .* has no such file"):
        names_of(base, Select("names.txt"))
    (base / "index.json").write_text("[1, 2]")
    with pytest.raises(UsageError, match="expected a list of objects"):
        names_of(base, Select("index.json"))


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


# --- rendered, synthetic, snow


def test_rendered_patches_come_in_pieces_of_one_sequence(folder: Path) -> None:
    source = RenderedSource(folder / "images", count=6, size=64)
    pool = whole(source)
    assert pool.images.shape == (6, 32, 32, 3)
    later = RenderedSource(folder / "images", count=3, start=3, size=64)
    assert same(pool.part(slice(3, None)), whole(later))
    assert not np.array_equal(pool.images, whole(dataclasses.replace(source, seed=2)).images)
    assert whole(source, Frame(0.25, 64)).images.shape == (6, 64, 64, 3)


def test_rendered_patches_do_not_depend_on_workers(folder: Path) -> None:
    source = RenderedSource(folder / "images", count=40, size=64)
    assert same(whole(source), whole(source, Frame(0.5, 32, workers=2)))


def test_rendered_parts_share_no_texture(folder: Path) -> None:
    train, held = (
        RenderedSource(folder / "images", select=Select(part=part, every=3))  # type: ignore[arg-type]
        for part in ("training", "validation")
    )
    assert train.statements()[0].count("3 textures") == 1
    assert held.statements()[0].count("2 textures") == 1
    assert train.describe(FRAME)["content"] != held.describe(FRAME)["content"]
    with pytest.raises(UsageError, match="of 5 none is in the part"):
        whole(dataclasses.replace(held, select=Select(part="validation", every=40)))


class _DarkIsNuclear:
    """Stands for a network at 0.5 mpp, its head and its decoder: two squares are its nuclei, of one it is sure."""

    name, mpp, stride_px, decoder = "offsets", 0.5, 16, None
    head = property(lambda self: self)

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def maps(self, images: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        self.seen += [image.shape for image in images]
        return [((i[..., 0] < 160).astype(np.float32), np.zeros((2, *i.shape[:2]), np.float32)) for i in images]

    def decode(self, maps: tuple[np.ndarray, ...], decoder: None, calibration: dict[str, float]) -> Nuclei:
        assert maps[0].shape == maps[1].shape[1:] == (50, 60)
        rings = np.array([[2, 2], [2, 6], [6, 6], [6, 2], [10, 20], [10, 23], [13, 23], [13, 20]], dtype=float)
        return Nuclei(rings, np.array([0, 4, 8]), {"score": np.array([0.95, 0.6], dtype=np.float32)})


def test_what_a_network_says_has_the_textures_size() -> None:
    image, labels = discs(3, 101, 120)
    network = _DarkIsNuclear()
    mask, sure = nuclear_pixels(network, image, 0.2, 0.8)  # type: ignore[arg-type]
    assert mask.shape == sure.shape == (101, 120)
    assert all(side % 16 == 0 for side in network.seen[0][:2])
    assert (mask != (labels > 0)).mean() < 0.05
    rows, columns = np.nonzero(sure)
    assert (rows.min(), rows.max(), columns.min(), columns.max(), sure.max()) == (4, 11, 4, 11, 1)


def test_a_network_fills_in_what_it_finds(tmp_path: Path) -> None:
    Image.fromarray(discs(0, 96, 96)[0]).save(tmp_path / "texture.png")
    source = RenderedSource(tmp_path, count=2, size=64, network=Path("unet-0.5"))
    plain = dataclasses.replace(source, network=None)
    assert source.describe(FRAME)["network"][1] == 0.1
    assert not np.array_equal(whole(source).images, whole(plain).images)


def test_a_datasets_patches_and_weights(dataset: Path) -> None:
    pool = whole(SyntheticSource(dataset))
    assert pool.images.shape == (40, 48, 48, 3)
    assert pool.weight[0] == pytest.approx(0.2)
    assert pool.weight[-1] == pytest.approx(2.0)
    assert (whole(SyntheticSource(dataset, weights=False)).weight == 1).all()
    assert same(whole(SyntheticSource(dataset, select=Select(span=(0.75, 0.875)))), pool.part(slice(30, 35)))
    held = whole(SyntheticSource(dataset, select=Select(part="validation", every=8)))
    assert same(held, pool.part(np.arange(4, 40, 8)))
    assert len(whole(SyntheticSource(dataset, select=Select(part="training", every=8)))) == 35
    cut_up = whole(SyntheticSource(dataset), Frame(0.25, 48))
    assert cut_up.images.shape == (160, 48, 48, 3)
    assert (cut_up.weight.reshape(40, 4) == pool.weight[:, None]).all()


def test_what_is_no_dataset_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="is no dataset"):
        whole(SyntheticSource(folder))


def test_snow_tiles_are_a_folder_of_pairs(tmp_path: Path) -> None:
    data = write_snow(tmp_path / "s", 3)
    pool = whole(SnowSource(data), Frame(0.25, 128))
    for n in range(3):
        image, labels = discs(n, 128, 128)
        assert np.array_equal(pool.images[n], image)
        assert np.array_equal(pool.labels[n] > 0, labels > 0)
    (data / "few.txt").write_text("seed0001\n")
    assert len(whole(SnowSource(data, select=Select("few.txt")), Frame(0.25, 128))) == 1
    (data / "Mask" / "seed0002.mat").unlink()
    with pytest.raises(UsageError, match="no labels for seed0002"):
        whole(SnowSource(data))


# --- slides


def test_the_runs_nuclei_are_the_labels(results: Path) -> None:
    """At 1 level-0 pixel a pixel, each label is a nucleus of the file."""
    frame = Frame(mpp=0.25, side=96)
    pool = whole(RunSource(results, count=5, sure=0.0), frame)
    assert (pool.known == UNKNOWN).mean() < 0.2
    nuclei = read_nuclei(results / "drawn" / "nuclei.parquet")
    areas = set(np.round(nuclei.areas()).astype(int).tolist())
    whole_ones = [
        int((labels == n).sum())
        for labels in pool.labels
        for n in range(1, labels.max() + 1)
        if not {n} & set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).tolist())
    ]
    assert len(whole_ones) > 5
    near = [min(abs(area - known) for known in areas) <= 0.1 * area for area in whole_ones]
    assert np.mean(near) > 0.9


def test_a_nucleus_that_is_not_sure_is_unknown(results: Path) -> None:
    scores = read_nuclei(results / "drawn" / "nuclei.parquet").columns["score"]
    middle = float(np.median(scores))
    all_of_them = whole(RunSource(results, count=8, sure=0.0, seed=3))
    some = whole(RunSource(results, count=8, sure=middle, seed=3))
    assert np.array_equal(all_of_them.images, some.images)
    dropped = (all_of_them.labels > 0) & (some.labels == 0) & (all_of_them.known == KNOWN)
    assert dropped.any()
    assert (some.known[dropped] == UNKNOWN).all()
    assert (some.covered[some.known == UNKNOWN] == 0).all()
    wide = whole(RunSource(results, count=8, sure=middle, seed=3, margin_um=4.0))
    assert (wide.known == UNKNOWN).sum() > (some.known == UNKNOWN).sum()
    assert np.array_equal(wide.labels, some.labels)


def test_lost_area_is_unknown(results: Path, tmp_path: Path) -> None:
    from wsiseg.formats.maps import write_masks
    from wsiseg.geometry import Scale

    copy = shutil.copytree(results, tmp_path / "lost")
    maps = copy / "drawn" / "maps.zarr"
    tissue = np.ones((96, 96), dtype=bool)
    write_masks(maps, tissue, Scale(32.0), 0.25, [(0, 0, 3072, 1536, "damaged")])
    pool = whole(RunSource(copy, count=40, sure=0.0, seed=1))
    assert (pool.known[pool.labels == 0] == UNKNOWN).any()
    assert (pool.known == KNOWN).any()
    write_masks(maps, np.zeros((96, 96), dtype=bool), Scale(32.0), 0.25)
    with pytest.raises(UsageError, match="no tissue"):
        whole(RunSource(copy, count=4))


def test_slides_that_moved_or_changed(results: Path, drawn: tuple[Path, Truth], tmp_path: Path) -> None:
    elsewhere = tmp_path / "slides"
    elsewhere.mkdir()
    shutil.copy(drawn[0], elsewhere)
    source = RunSource(results, count=3)
    assert same(whole(source), whole(dataclasses.replace(source, slides=elsewhere)))
    with pytest.raises(UsageError, match="say where with slides"):
        whole(dataclasses.replace(source, slides=tmp_path))
    with (elsewhere / drawn[0].name).open("r+b") as file:
        file.seek(200_000)
        file.write(bytes(5000))
    with pytest.raises(UsageError, match="its content is not what"):
        whole(dataclasses.replace(source, slides=elsewhere))


def test_grades_choose_slides(results: Path) -> None:
    grade = json.loads((results / "drawn" / "slide.json").read_text())["grade"]["grade"]
    assert len(whole(RunSource(results, count=2, grades=(grade, "x")))) == 2
    with pytest.raises(UsageError, match="of 1 none is in the part 'training'"):
        whole(RunSource(results, count=2, select=Select(part="training", every=2, span=(0.0, 0.4))))
    with pytest.raises(UsageError, match="no slide graded x; there are"):
        whole(RunSource(results, count=2, grades=("x",)))
    with pytest.raises(UsageError, match="no results"):
        whole(RunSource(results / "drawn", count=2))


def test_images_are_drawn_from_tissue(drawn: tuple[Path, Truth], folder: Path) -> None:
    pool = whole(ImagesSource(drawn[0], count=20, seed=4))
    assert pool.images.shape == (20, 48, 48, 3)
    assert (pool.known == UNKNOWN).all()
    assert (pool.images.mean(axis=(1, 2, 3)) < 235).mean() > 0.7  # mostly no glass
    assert not np.array_equal(pool.images, whole(ImagesSource(drawn[0], count=20, seed=5)).images)
    grid = whole(ImagesSource(folder / "images", mpp=0.25), Frame(0.25, 160))
    assert np.array_equal(grid.images[0], np.array(Image.open(folder / "images" / "a.png")))
    with pytest.raises(MissingMppError, match="microns per pixel"):
        whole(ImagesSource(folder / "images"))


def test_blank_images_have_nothing_to_draw(tmp_path: Path) -> None:
    Image.fromarray(np.full((200, 200, 3), 245, dtype=np.uint8)).save(tmp_path / "glass.png")
    with pytest.raises(UsageError, match="no tissue in 1 images"):
        whole(ImagesSource(tmp_path, mpp=0.5, count=4))


@given(st.integers(1, 500), st.lists(st.floats(0, 10), min_size=1, max_size=6))
def test_counts_are_in_proportion(count: int, areas: list[float]) -> None:
    if sum(areas) < 1e-6:
        return
    found = apportion(count, areas)
    assert sum(found) == count
    assert all(abs(n - count * a / sum(areas)) < 1 + 1e-6 for n, a in zip(found, areas, strict=True))


def test_names_lose_the_suffix_of_images_alone() -> None:
    assert files.stem("TCGA-18.5592.PNG") == "TCGA-18.5592"
    assert files.stem("TCGA-18.5592") == "TCGA-18.5592"
    assert files.stem("seed0000.mat") == "seed0000"


def test_the_renderers_revision_counts_its_changes(folder: Path) -> None:
    """Pools are kept by it. What makes this fail must count ``synth.render.REVISION`` up."""
    pool = whole(RenderedSource(folder / "images", count=3, size=96), Frame(0.25, 96))
    assert REVISION == 2
    assert pool.images.mean(axis=(1, 2, 3)).tolist() == pytest.approx([164.1, 132.0, 121.8], abs=0.2)
    assert pool.labels.max(axis=(1, 2)).tolist() == [10, 3, 10]


class TestPseudo:
    """Patches that a network labels."""

    @pytest.fixture(scope="class")
    def source(self, tmp_path_factory: pytest.TempPathFactory) -> PseudoSource:
        folder = tmp_path_factory.mktemp("textures")
        for n in range(3):
            Image.fromarray(discs(n, 96, 96)[0]).save(folder / f"texture{n}.png")
        return PseudoSource(ImagesSource(folder, mpp=0.25), Path("unet-0.5"), sure=0.5)

    def test_one_patch_an_image_at_the_students_scale(self, source: PseudoSource) -> None:
        pool = whole(source, Frame(0.5, 48))
        assert pool.images.shape == (3, 48, 48, 3)
        assert (pool.known == KNOWN).all()
        # Soft: probabilities between nothing and all, and they are high in the nuclei that it is sure of.
        assert ((pool.covered > 5) & (pool.covered < 250)).any()
        assert pool.labels.max() > 0
        assert pool.covered[pool.labels > 0].mean() > 127

    def test_a_student_may_see_finer_than_its_teacher(self, source: PseudoSource) -> None:
        fine, coarse = whole(source, Frame(0.25, 96)), whole(source, Frame(0.5, 48))
        assert fine.images.shape == (3, 96, 96, 3)
        halved = (fine.labels > 0).reshape(3, 48, 2, 48, 2).mean(axis=(2, 4)) >= 0.5
        assert (halved == (coarse.labels > 0)).mean() > 0.97

    def test_what_is_unsure_has_no_centre(self, source: PseudoSource) -> None:
        strict = whole(dataclasses.replace(source, sure=1.0), Frame(0.5, 48))
        assert strict.labels.max() == 0
        assert strict.covered.any()
        hard = whole(dataclasses.replace(source, sure=1.0, soft=False), Frame(0.5, 48))
        assert not hard.covered.any()
        assert {UNKNOWN, KNOWN} == set(np.unique(hard.known))

    def test_views_and_teacher_are_part_of_the_key(self, source: PseudoSource) -> None:
        one = source.describe(FRAME)
        assert one["network"]
        assert one != dataclasses.replace(source, scales=(1.0,)).describe(FRAME)
        assert "unet-0.5" in source.statements()[0]

    def test_no_network_is_an_error(self, source: PseudoSource) -> None:
        with pytest.raises(ModelError, match="is no network"):
            whole(dataclasses.replace(source, network=Path("classical")))

    @pytest.mark.parametrize("change", [{"scales": ()}, {"scales": (9.0,)}, {"sure": 2.0}])
    def test_impossible_values_are_refused(self, source: PseudoSource, change: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="expected"):
            dataclasses.replace(source, **change)
