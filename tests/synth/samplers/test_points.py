"""Ellipses at the points of real images."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsiseg.core.select import Select
from wsiseg.core.tables import parse_table
from wsiseg.errors import UsageError
from wsiseg.synth.samplers.points import PointsOptions, centroids
from wsiseg.testing.conformance import synthesis


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dots in rows, 30 px apart."""
    labels = np.zeros((400, 300), dtype=np.uint16)
    for n, (y, x) in enumerate((y, x) for y in range(15, 400, 30) for x in range(15, 300, 30)):
        labels[y - 1 : y + 2, x - 1 : x + 2] = 7 + 2 * n
    folder = tmp_path_factory.mktemp("dots")
    Image.fromarray(labels).save(folder / "a.png")
    return folder


@pytest.mark.parametrize("check", synthesis.SAMPLER_CHECKS, ids=lambda check: check.__name__)
def test_it_conforms(check: Callable[[synthesis.Case], None], dots: Path) -> None:
    check(synthesis.Case(PointsOptions(dots), None, None, 96))


def test_nuclei_lie_at_the_points(dots: Path) -> None:
    layout = PointsOptions(dots).build(0.25)(np.random.default_rng(3), 180, None)
    found = centroids(layout.instances)
    middle = found[((found > 25) & (found < 155)).all(axis=1)]
    assert len(middle) >= 12
    steps = np.diff(np.unique(np.rint(middle[:, 0] / 3) * 3))
    assert np.isin(steps[steps > 3], (27, 30, 33)).all()


def test_a_table_chooses_images(dots: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    shutil.copy(dots / "a.png", tmp_path / "labels")
    Image.fromarray(np.zeros((400, 300), dtype=np.uint16)).save(tmp_path / "labels" / "b.png")
    (tmp_path / "index.csv").write_text("id,split\na,train\nb,test\n")
    for split, empty in (("train", False), ("test", True)):
        table = {"labels": "labels", "folder": "labels"}
        select = {"table": "index.csv", "key": "split", "values": [split]}
        options = parse_table(PointsOptions, {**table, "select": select}, "sampler")
        sample = dataclasses.replace(options, labels=tmp_path).build(0.25)
        drawn = [sample(np.random.default_rng(seed), 96, None).instances.any() for seed in range(4)]
        assert drawn == [not empty] * 4
    with pytest.raises(UsageError, match="no row whose split"):
        PointsOptions(tmp_path, "labels", Select("index.csv", "split", ("none",))).build(0.25)


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no label images"):
        PointsOptions(tmp_path).build(0.25)
