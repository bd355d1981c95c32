"""Which of a source's items are meant: tables of names, spans, parts."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from wsiseg.core.names import stem
from wsiseg.core.select import Select
from wsiseg.errors import UsageError
from wsiseg.testing.training import FRAME, whole
from wsiseg.train.source import Frame
from wsiseg.train.sources.folder import FolderSource
from wsiseg.train.sources.images import ImagesSource
from wsiseg.train.sources.rendered import RenderedSource


def names_of(folder: Path, select: Select) -> list[str]:
    return list(FolderSource(folder, mpp=0.25, select=select).pairs())


def test_tables_choose_images(annotated: Path) -> None:
    assert names_of(annotated, Select("names.txt")) == ["b", "d"]
    for table in ("index.csv", "index.json"):
        assert names_of(annotated, Select(table, "split", ("train",))) == ["a", "b"]
        assert names_of(annotated, Select(table)) == ["a", "b", "c", "d", "e"]
    images = ImagesSource(annotated / "images", mpp=0.25, select=Select("../names.txt"))
    assert len(whole(images, Frame(0.25, 160))) == 2
    rendered = RenderedSource(annotated / "images", select=Select("../names.txt"))
    assert "2 textures" in rendered.statements()[0]


def test_training_and_validation_part(annotated: Path) -> None:
    for part, names in (("training", ["a", "c", "e"]), ("validation", ["b", "d"])):
        assert names_of(annotated, Select(part=part, every=2)) == names


def test_spans_divide_without_a_rest(annotated: Path) -> None:
    spans = [(0.0, 0.4), (0.4, 0.6), (0.6, 1.0)]
    assert [names_of(annotated, Select(span=span)) for span in spans] == [["a", "b"], ["c"], ["d", "e"]]
    counts = [len(Select(span=s).numbered(range(5000), "")) for s in ((0, 0.72), (0.72, 0.8), (0.8, 1.0))]
    assert counts == [3600, 400, 1000]


def test_a_table_comes_before_a_span_and_a_span_before_a_part(annotated: Path) -> None:
    split = Select("index.json", "split", ("test",))
    assert names_of(annotated, split) == ["c", "d", "e"]
    assert names_of(annotated, dataclasses.replace(split, span=(0.0, 0.67))) == ["c", "d"]
    assert names_of(annotated, dataclasses.replace(split, span=(0.0, 0.67), part="validation", every=2)) == ["d"]


def test_what_is_not_meant_needs_no_labels(annotated: Path, tmp_path: Path) -> None:
    base = shutil.copytree(annotated, tmp_path / "some")
    (base / "labels" / "c.png").unlink()
    assert names_of(base, Select("names.txt")) == ["b", "d"]
    assert names_of(base, Select(span=(0.6, 1.0))) == ["d", "e"]
    with pytest.raises(UsageError, match="no labels for c"):
        names_of(base, Select())


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (Select("none.txt"), "cannot be read as a table"),
        (Select("index.json", "organ", ("x",)), "no column 'organ'"),
        (Select("index.json", "split", ("x",)), "no row whose split is one of"),
        (Select(part="validation", every=50), "of 5 none is in the part 'validation'; every is 50"),
        (Select(span=(0.45, 0.5)), r"none is in the part 'all' between the fractions \[0.45, 0.5\]"),
    ],
)
def test_a_selection_that_does_not_fit_is_refused(annotated: Path, select: Select, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FolderSource(annotated, mpp=0.25, select=select).describe(FRAME)


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("names.txt", "a\nz\n", r"names\.txt: names z, which .* does not have"),
        ("names.txt", "# none\n", "no rows with a name"),
        ("index.csv", "organ\nx\n", "expected a column id or name or image or file"),
        ("index.json", "[1, 2]", "expected a list of objects"),
        ("index.json", "{", "is not JSON"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    annotated: Path, tmp_path: Path, table: str, content: str, message: str
) -> None:
    base = shutil.copytree(annotated, tmp_path / "table")
    (base / table).write_text(content)
    with pytest.raises(UsageError, match=message):
        names_of(base, Select(table))


def test_names_lose_the_suffix_of_images_alone() -> None:
    assert stem("TCGA-18.5592.PNG") == "TCGA-18.5592"
    assert stem("TCGA-18.5592") == "TCGA-18.5592"
    assert stem("seed0000.mat") == "seed0000"
