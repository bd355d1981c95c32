"""Microns per pixel: provenance, absurd values, tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_slide_tiff import texture

from wsiseg.errors import MissingMppError, UsageError
from wsiseg.slide import open_slide, read_mpp_table
from wsiseg.slide.mpp import from_metadata, from_option
from wsiseg.testing import write_svs


@pytest.mark.parametrize(
    ("x", "y", "value"),
    [
        ("0.25", None, 0.25),
        (None, "0.25", 0.25),
        ("0,2520", "0,2520", 0.252),
        (0.25, 0.2501, 0.25005),
        (" 0.5 ", "", 0.5),
    ],
)
def test_usable_values(x: object, y: object, value: float) -> None:
    mpp, problem = from_metadata(x, y, "aperio.MPP")
    assert mpp is not None
    assert mpp.value == pytest.approx(value)
    assert mpp.source == "metadata:aperio.MPP"
    assert problem == ""


@pytest.mark.parametrize("text", ["0", "nan", "-1", "1e9", "352.8", "0.001", "inf", "unknown", "1.2.3"])
def test_absurd_values_are_named(text: str) -> None:
    mpp, problem = from_metadata(text, text, "aperio.MPP")
    assert mpp is None
    assert text in problem
    assert "aperio.MPP" in problem


def test_no_value_is_no_problem() -> None:
    assert from_metadata(None, "", "aperio.MPP") == (None, "")


def test_pixels_that_are_not_square() -> None:
    assert from_metadata(0.25, 0.262, "x")[0] is not None
    mpp, problem = from_metadata(0.25, 0.27, "x")
    assert mpp is None
    assert "not square" in problem


def test_a_contradicting_objective_is_noted() -> None:
    assert from_metadata("0.25", None, "x", "40")[0].note == ""
    assert from_metadata("0.499", None, "x", "20")[0].note == ""
    assert "objective of 20x" in from_metadata("0.25", None, "x", "20")[0].note
    assert from_metadata("0.25", None, "x", "unknown")[0].note == ""


@pytest.mark.parametrize("value", [0.0, -0.25, float("nan"), 1e9])
def test_an_absurd_option_is_a_usage_error(value: float) -> None:
    with pytest.raises(UsageError, match="--mpp"):
        from_option(value)


@pytest.mark.parametrize(
    "text",
    [
        "slide,mpp\na.svs,0.25\nb,0.5\n",
        "\ufeffslide;mpp\na.svs;0,25\nb;0,5\n",
        "mpp\tslide\r\n0.25\ta.svs\r\n0.5\tb\r\n",
    ],
)
def test_tables(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mpp.csv"
    path.write_text(text, encoding="utf-8", newline="")
    table = read_mpp_table(path)
    found = table.lookup(Path("/somewhere/a.svs"))
    assert found is not None
    assert (found.value, found.source) == (0.25, "table:mpp.csv")
    assert table.lookup(Path("b.ndpi")).value == 0.5
    assert table.lookup(Path("c.svs")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name,mpp\na,0.25\n",
        "slide,mpp\na,0\n",
        "slide,mpp\na,x\n",
        "slide,mpp\na\n",
        "slide,mpp\na,1\na,2\n",
        "slide,mpp\n,1\n",
    ],
)
def test_bad_tables(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mpp.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"mpp\.csv"):
        read_mpp_table(path)


def test_bad_table_files(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("binary.csv", "absent.csv"):
        with pytest.raises(UsageError, match=name):
            read_mpp_table(tmp_path / name)


def test_what_overrides_what(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs", texture(64, 64), tile=32, mpp=0.25, levels=(1,), associated=False)
    table = tmp_path / "t.csv"
    table.write_text("slide,mpp\na.svs,0.3\n")
    assert open_slide(path).require_mpp().source == "metadata:aperio.MPP"
    assert open_slide(path, mpp_table=table).require_mpp().value == 0.3
    option = open_slide(path, mpp=0.4, mpp_table=table).require_mpp()
    assert (option.value, option.source) == (0.4, "option")


@pytest.mark.parametrize(
    ("value", "said"), [(None, "no microns per pixel"), (0.0, "not positive"), (352.0, "outside")]
)
def test_a_missing_mpp_is_an_error_with_the_remedy(tmp_path: Path, value: float | None, said: str) -> None:
    path = write_svs(tmp_path / "a.svs", texture(64, 64), tile=32, mpp=None, levels=(1,), associated=False)
    if value is not None:
        path = write_svs(
            tmp_path / "b.svs", texture(64, 64), tile=32, mpp=None, levels=(1,), associated=False,
            properties={"MPP": str(value)},
        )  # fmt: skip
    slide = open_slide(path)
    assert slide.mpp is None
    for call in (slide.require_mpp, lambda: slide.scale(0.5)):
        with pytest.raises(MissingMppError, match=said) as error:
            call()
        assert "--mpp" in str(error.value)
        assert len(str(error.value).splitlines()) <= 3
