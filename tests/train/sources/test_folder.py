"""Folders of images and label images: scales, sizes, labels of every kind, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsiseg.core.select import Select
from wsiseg.errors import UsageError
from wsiseg.testing.training import FRAME, discs, same, whole, write_folder
from wsiseg.train.patches import KNOWN, OUTSIDE
from wsiseg.train.source import Frame
from wsiseg.train.sources.folder import FolderSource


def test_images_are_cut_at_the_frames_scale(annotated: Path) -> None:
    assert whole(FolderSource(annotated, mpp=0.25)).images.shape == (5 * 4, 48, 48, 3)  # 80 px in two, 64 px apart
    assert whole(FolderSource(annotated, mpp=0.25), Frame(0.5, 80)).images.shape == (5, 80, 80, 3)
    small = whole(FolderSource(annotated, mpp=0.25), Frame(0.5, 200))
    assert small.images.shape == (5, 80, 80, 3)  # all of one size: as they are
    assert (small.known == KNOWN).all()


def test_images_of_several_sizes_are_padded(annotated: Path, tmp_path: Path) -> None:
    other = shutil.copytree(annotated, tmp_path / "two")
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


def test_masks_become_their_components(annotated: Path, tmp_path: Path) -> None:
    base = shutil.copytree(annotated, tmp_path / "masks")
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


def test_each_image_has_its_own_scale(annotated: Path, tmp_path: Path) -> None:
    base = shutil.copytree(annotated, tmp_path / "table")
    (base / "mpp.csv").write_text("slide,mpp\na,0.25\nb.png,0.5\nc,0.25\nd,0.25\ne,0.25\n")
    pool = whole(FolderSource(base, mpp_table="mpp.csv", select=Select("names.txt")), Frame(0.5, 160))
    assert [(known == KNOWN).sum() for known in pool.known] == [160**2, 80**2]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"images": "none"}, "no such folder"), ({"label_ending": "_mask"}, "no files ending in _mask")],
)
def test_a_folder_that_does_not_fit_is_refused(annotated: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FolderSource(annotated, mpp=0.25, **change).describe(FRAME)


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
def test_bad_pairs_are_named(annotated: Path, tmp_path: Path, what: str, message: str) -> None:
    base = shutil.copytree(annotated, tmp_path / "bad")
    damage(base, what)
    with pytest.raises(UsageError, match=f"(?s){message}"):
        whole(FolderSource(base, mpp=0.25))


def test_images_without_nuclei_say_nothing_of_their_scale(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "d", 2)
    for path in (base / "labels").iterdir():
        Image.fromarray(np.zeros((160, 160), dtype=np.uint8)).save(path)
    with pytest.raises(UsageError, match="give mpp"):
        whole(FolderSource(base, nucleus_um=8.0))


def test_a_table_of_scales_must_list_all_images(annotated: Path, tmp_path: Path) -> None:
    base = shutil.copytree(annotated, tmp_path / "table")
    (base / "mpp.csv").write_text("slide,mpp\na,0.25\n")
    with pytest.raises(UsageError, match=r"no mpp of b \(4 missing\)"):
        whole(FolderSource(base, mpp_table="mpp.csv"))
