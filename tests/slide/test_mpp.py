"""Microns per pixel: provenance, absurd values, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from wsiseg.core.geometry import Scale, Window
from wsiseg.errors import MissingMppError, SlideError, UsageError
from wsiseg.slide import open_slide, read_mpp_table
from wsiseg.slide.info import describe
from wsiseg.slide.mpp import from_metadata, from_option, override_note
from wsiseg.slide.readers.tiff.declared import microns
from wsiseg.slide.types import Mpp
from wsiseg.testing import write_svs
from wsiseg.testing.images import texture


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


@pytest.mark.parametrize(
    "text", ["0", "nan", "-1", "1e9", "352.8", "99", "20", "0.02", "0.001", "inf", "unknown", "1.2.3"]
)
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
    (tmp_path / "quote.csv").write_text('slide,mpp\n"a' + "x" * 200_000 + '",0.5\n')
    for name in ("binary.csv", "absent.csv", "quote.csv"):
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


# --- what TIFF files declare -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("µm", 1.0), ("\u03bcm", 1.0), ("um", 1.0), ("micron", 1.0), ("\\u00B5m", 1.0), ("nm", 1e-3), ("mm", 1e3),
        ("cm", 1e4), ("dm", 1e5), ("m", 1e6), ("km", 1e9), ("pm", 1e-6), ("Å", 1e-4), ("\u212b", 1e-4),
        ("in", 25400.0), ("inch", 25400.0), ("mil", 25.4), ("thou", 25.4), ("ft", 304800.0), ("pt", 25400 / 72),
        ("li", 25400 / 12), ("Millimeters", 1e3),
        (" um ", 1.0), ("pixel", None), ("reference frame", None), ("Mm", None), ("", None),
        ("furlong", None),
    ],
)  # fmt: skip
def test_units_of_length(unit: str, factor: float | None) -> None:
    assert microns(unit) == (pytest.approx(factor) if factor else None)


def write_tiff(path: Path, description: str | None = None, tiled: bool = True, **options: Any) -> Path:
    kind = {"tile": (64, 64)} if tiled else {"rowsperstrip": 8}
    tifffile.imwrite(
        path, texture(64, 64), photometric="rgb", description=description, metadata=None, **kind, **options
    )
    return path


OME = """<OME><Image><Pixels SizeX="64" SizeY="64" {}><TiffData IFD="0"/></Pixels></Image></OME>"""


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize(
    ("sizes", "mpp", "said"),
    [
        ("PhysicalSizeX='0.5' PhysicalSizeY='0.5'", 0.5, ""),
        ("PhysicalSizeX='0.5'", 0.5, ""),
        ("PhysicalSizeX='0,5' PhysicalSizeXUnit='&#xB5;m'", 0.5, ""),
        ("PhysicalSizeX='2500' PhysicalSizeXUnit='Å'", 0.25, ""),
        ("PhysicalSizeX='5e-7' PhysicalSizeXUnit='m'", 0.5, ""),
        ("PhysicalSizeX='1' PhysicalSizeXUnit='pixel'", None, "'pixel'"),
        ("PhysicalSizeX='1' PhysicalSizeXUnit='reference frame'", None, "'reference frame'"),
        ("PhysicalSizeX='x'", None, "say x microns"),
        ("PhysicalSizeX='40'", None, "say 40 microns"),
        ("PhysicalSizeX='.5' PhysicalSizeY='.6'", None, "not square"),
    ],
)
def test_ome_sizes(tmp_path: Path, sizes: str, mpp: float | None, said: str, tiled: bool) -> None:
    path = write_tiff(tmp_path / "a.ome.tif", OME.format(sizes).encode(), tiled)
    with open_slide(path) as slide:
        assert (slide.mpp.value if slide.mpp else None) == mpp
        assert said in slide.description.mpp_problem
        assert "not in the metadata" not in "".join(describe(slide)["notes"])


def test_the_scale_of_another_size_is_unknown(tmp_path: Path) -> None:
    """A program that shrinks a picture and keeps its description."""
    text = (
        OME.format("PhysicalSizeX='0.5'").replace('SizeX="64"', 'SizeX="256"').replace('SizeY="64"', 'SizeY="256"')
    )
    slide = open_slide(write_tiff(tmp_path / "a.tif", text.encode()))
    assert slide.mpp is None
    assert "256 × 256" in slide.description.mpp_problem


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize(
    ("unit", "resolution", "mpp", "said"),
    [
        ("micron", 4.0, 0.25, ""),
        ("\\u00B5m", 2.0, 0.5, ""),
        ("cm", 20000.0, 0.5, ""),
        ("mm", 4000.0, 0.25, ""),
        ("nm", 0.004, 0.25, ""),
        ("inch", 50800.0, 0.5, ""),
        ("inch", 300.0, None, "printing"),
        ("pixel", 1.0, None, "'pixel'"),
    ],
)
def test_imagej_units(
    tmp_path: Path, unit: str, resolution: float, mpp: float | None, said: str, tiled: bool
) -> None:
    text = f"ImageJ=1.53t\nunit={unit}\nmin=0.0\n"
    path = write_tiff(tmp_path / "a.tif", text, tiled, resolution=(resolution, resolution), resolutionunit="NONE")
    slide = open_slide(path)
    assert (slide.mpp.value if slide.mpp else None) == (pytest.approx(mpp) if mpp else None)
    assert said in slide.description.mpp_problem


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize(
    ("resolution", "unit", "mpp", "said"),
    [
        (40000, "CENTIMETER", 0.25, ""),
        (101600, "INCH", 0.25, ""),
        *[(dpi, "INCH", None, "printing") for dpi in (72, 96, 150, 300, 600, 1200)],
        *[(dpi / 2.54, "CENTIMETER", None, "printing") for dpi in (72, 96, 150, 300, 600, 1200)],
        (1_000_000, "CENTIMETER", None, "outside 0.05"),
        (40000, "NONE", None, "no unit"),
        (1, "NONE", None, ""),
    ],
)
def test_resolutions(
    tmp_path: Path, resolution: float, unit: str, mpp: float | None, said: str, tiled: bool
) -> None:
    path = write_tiff(tmp_path / "a.tif", None, tiled, resolution=(resolution, resolution), resolutionunit=unit)
    slide = open_slide(path)
    assert (slide.mpp.value if slide.mpp else None) == (pytest.approx(mpp) if mpp else None)
    assert said in slide.description.mpp_problem
    assert bool(slide.description.mpp_problem) == bool(said)


def test_another_readers_slide_has_the_same_scale(tmp_path: Path) -> None:
    """A palette: OpenSlide converts it in tiles, Pillow in strips."""
    indices = (texture(64, 64)[:, :, 0] // 64).astype(np.uint8)
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256), dtype=np.uint16)
    for kind, reader in (({"tile": (64, 64)}, "openslide"), ({"rowsperstrip": 8}, "image")):
        path = tmp_path / f"{reader}.tif"
        tifffile.imwrite(
            path, indices, photometric="palette", colormap=colours, metadata=None,
            description=OME.format("PhysicalSizeX='0.5' PhysicalSizeXUnit='µm'").encode(), **kind,
        )  # fmt: skip
        slide = open_slide(path)
        assert (slide.reader, slide.require_mpp().value) == (reader, 0.5)
        assert slide.require_mpp().source == "metadata:ome.PhysicalSize"
        expected = (colours[:, indices] >> 8).transpose(1, 2, 0)
        np.testing.assert_array_equal(slide.read_window(Window(0, 0, 64, 64), Scale(1.0)), expected)


@pytest.mark.parametrize("mpp", [90.0, 20.0, 5.1])
def test_pixels_are_not_enlarged_without_end(tmp_path: Path, mpp: float) -> None:
    path = write_svs(tmp_path / "a.svs", texture(64, 64), tile=32, levels=(1,), associated=False)
    slide = open_slide(path, mpp=mpp)
    with pytest.raises(SlideError, match=r"a\.svs: has .*\(option\).*\n.*at most 10 times.*\n.*--mpp"):
        slide.scale(0.5)
    assert open_slide(path, mpp=5.0).scale(0.5).downsample == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("given", "declared", "factor"), [(0.5, 0.293, "1.7"), (0.25, 0.5, "0.5"), (0.27, 0.25, ""), (0.25, 0.25, "")]
)
def test_a_given_value_that_contradicts_the_metadata_is_said(given: float, declared: float, factor: str) -> None:
    note = override_note(Mpp(given, "option"), Mpp(declared, "metadata:aperio.MPP"))
    assert (f"{factor} times" in note and "aperio.MPP" in note) if factor else note == ""


def test_nothing_is_contradicted_where_metadata_say_nothing() -> None:
    assert override_note(Mpp(0.25, "option"), None) == ""
