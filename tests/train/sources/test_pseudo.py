"""Patches that a network labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsiseg.errors import ModelError
from wsiseg.models.heads import head_by_name
from wsiseg.testing.training import FRAME, discs, whole
from wsiseg.train.labelling import agreed, doubted
from wsiseg.train.patches import KNOWN, UNKNOWN
from wsiseg.train.source import Frame
from wsiseg.train.sources.images import ImagesSource
from wsiseg.train.sources.pseudo import PseudoSource, mean_of_views

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PseudoSource:
    folder = tmp_path_factory.mktemp("textures")
    for n in range(3):
        Image.fromarray(discs(n, 96, 96)[0]).save(folder / f"texture{n}.png")
    return PseudoSource(ImagesSource(folder, mpp=0.25), Path("unet-0.5"), sure=0.5)


def test_one_patch_an_image_at_the_students_scale(source: PseudoSource) -> None:
    pool = whole(source, Frame(0.5, 48))
    assert pool.images.shape == (3, 48, 48, 3)
    assert (pool.known == KNOWN).all()
    # Soft: probabilities between nothing and all, and they are high in the nuclei that it is sure of.
    assert ((pool.covered > 5) & (pool.covered < 250)).any()
    assert pool.labels.max() > 0
    assert pool.covered[pool.labels > 0].mean() > 127


def test_a_student_may_see_finer_than_its_teacher(source: PseudoSource) -> None:
    fine, coarse = whole(source, Frame(0.25, 96)), whole(source, Frame(0.5, 48))
    assert fine.images.shape == (3, 96, 96, 3)
    halved = (fine.labels > 0).reshape(3, 48, 2, 48, 2).mean(axis=(2, 4)) >= 0.5
    assert (halved == (coarse.labels > 0)).mean() > 0.97


def test_what_is_unsure_has_no_centre(source: PseudoSource) -> None:
    strict = whole(dataclasses.replace(source, sure=1.0), Frame(0.5, 48))
    assert strict.labels.max() == 0
    assert strict.covered.any()
    hard = whole(dataclasses.replace(source, sure=1.0, soft=False), Frame(0.5, 48))
    assert not hard.covered.any()
    assert {UNKNOWN, KNOWN} == set(np.unique(hard.known))


def test_where_two_networks_differ_nothing_is_known(source: PseudoSource) -> None:
    alone = whole(source, Frame(0.5, 48))
    itself = whole(dataclasses.replace(source, witness=Path("unet-0.5")), Frame(0.5, 48))
    assert np.array_equal(itself.known, alone.known)
    assert np.array_equal(itself.labels, alone.labels)
    other = whole(dataclasses.replace(source, witness=Path("unet-0.25"), tolerance=0.05), Frame(0.5, 48))
    assert {UNKNOWN, KNOWN} == set(np.unique(other.known))
    assert np.array_equal(other.covered, alone.covered)


def test_dark_background_may_be_held_back(source: PseudoSource, tmp_path: Path) -> None:
    """A teacher that sees nothing in a dark place does not teach that nothing is there."""
    (labels := np.zeros((20, 20), dtype=np.int32))[2:8, 2:8] = 1
    image = np.full((20, 20, 3), 235, dtype=np.uint8)
    image[2:8, 2:8] = image[12:18, 12:15] = (90, 60, 150)
    covered = np.where(labels > 0, 255, 0).astype(np.uint8)
    known = doubted(image, labels, covered, np.full((20, 20), KNOWN, dtype=np.uint8), 0.25)
    assert (known[12:18, 12:15] == UNKNOWN).all()
    assert np.count_nonzero(known == UNKNOWN) == 18
    assert dataclasses.replace(source, doubt=0.2).describe(FRAME) != source.describe(FRAME)


def test_a_nucleus_that_only_one_network_finds_has_no_centre() -> None:
    mine, theirs = np.zeros((2, 10, 30), dtype=np.int32)
    mine[2:8, 2:8], mine[2:8, 12:18], mine[2:8, 22:28] = 1, 2, 3
    theirs[2:8, 3:8], theirs[2:8, 12:14] = 5, 6
    covered = np.where(mine > 0, 255, 0).astype(np.uint8)
    sure = np.full(mine.shape, KNOWN, dtype=np.uint8)
    labels, known = agreed(mine, covered, sure, theirs, (theirs > 0).astype(np.float32), 0.3)
    assert np.array_equal(labels, np.where(mine == 1, 1, 0))
    assert np.array_equal(known == UNKNOWN, (mine > 0) != (theirs > 0))


def test_views_and_teacher_are_part_of_the_key(source: PseudoSource) -> None:
    one = source.describe(FRAME)
    assert one["network"]
    assert one != dataclasses.replace(source, scales=(1.0,)).describe(FRAME)
    assert "unet-0.5" in source.statements()[0]


def test_no_network_is_an_error(source: PseudoSource) -> None:
    with pytest.raises(ModelError, match="is no network"):
        whole(dataclasses.replace(source, network=Path("classical")))


@pytest.mark.parametrize(
    "change", [{"scales": ()}, {"scales": (9.0,)}, {"sure": 2.0}, {"doubt": 2.0}, {"tolerance": -1.0}]
)
def test_impossible_values_are_refused(source: PseudoSource, change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        dataclasses.replace(source, **change)


class _TypedHover:
    """Stands for HoVer-Net with types: a constant image has constant maps."""

    mpp, stride_px, head = 0.5, 4, head_by_name("hover")

    def maps(self, images: list[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        shapes = [image.shape[:2] for image in images]
        types = [np.ones(shape, np.float32) for shape in shapes]
        return [(np.full(s, 0.75, np.float32), np.full((2, *s), -0.5, np.float32), t)
                for s, t in zip(shapes, types, strict=True)]  # fmt: skip


def test_a_teachers_types_are_left_out() -> None:
    image = np.full((60, 80, 3), 200, dtype=np.uint8)
    foreground, distances = mean_of_views(_TypedHover(), image, 0.25, (0.8, 1.25))  # type: ignore[arg-type]
    assert foreground.shape == (30, 40)
    assert distances.shape == (2, 30, 40)
    assert foreground == pytest.approx(0.75)
    assert distances == pytest.approx(-0.5)
