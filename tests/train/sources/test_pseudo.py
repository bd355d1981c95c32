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


def test_views_and_teacher_are_part_of_the_key(source: PseudoSource) -> None:
    one = source.describe(FRAME)
    assert one["network"]
    assert one != dataclasses.replace(source, scales=(1.0,)).describe(FRAME)
    assert "unet-0.5" in source.statements()[0]


def test_no_network_is_an_error(source: PseudoSource) -> None:
    with pytest.raises(ModelError, match="is no network"):
        whole(dataclasses.replace(source, network=Path("classical")))


@pytest.mark.parametrize("change", [{"scales": ()}, {"scales": (9.0,)}, {"sure": 2.0}])
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
