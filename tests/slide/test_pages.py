"""Which pages of a TIFF are the slide: one image's levels, its own scale, and in words what else is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsiseg.core.geometry import Scale, Window
from wsiseg.errors import SlideError
from wsiseg.slide import open_slide
from wsiseg.slide.readers.tiff import omexml

TILED = {"tile": (64, 64), "compression": "deflate"}
UM = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
PLAIN = {"photometric": "rgb", "metadata": None}


def picture(side: int = 256, seed: int = 0) -> np.ndarray:
    """Coloured spots of some 30 pixels."""
    small = np.random.default_rng(seed).integers(0, 256, (side // 16 + 2, side // 16 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def half(pixels: np.ndarray, step: int = 2) -> np.ndarray:
    return np.ascontiguousarray(pixels[::step, ::step])


def whole(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read_window(Window(0, 0, slide.width, slide.height), Scale(1.0))


def sizes(path: Path) -> list[int]:
    return [level.width for level in open_slide(path).levels]


def write_ome(path: Path, images: list[tuple[np.ndarray, dict[str, Any]]], **options: Any) -> Path:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for pixels, metadata in images:
            tiff.write(pixels, metadata=UM | metadata, **({"photometric": "rgb"} | TILED | options))
    return path


# --- OME-TIFF --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["Red", "Green", "Blue"], ["blue", "Channel R", "g"]])
@pytest.mark.parametrize("tiled", [True, False])
def test_three_grey_pages_that_are_the_colours(tmp_path: Path, names: list[str], tiled: bool) -> None:
    pixels = picture()
    order = ["rgb".index(name.lower().removeprefix("channel ")[0]) for name in names]
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[order])
    path = tmp_path / "a.ome.tif"
    kind = {"photometric": "minisblack", **(TILED if tiled else {"rowsperstrip": 10, "compression": "lzw"})}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        metadata = UM | {"axes": "CYX", "Channel": {"Name": names}}
        tiff.write(planes, subifds=int(tiled), metadata=metadata, **kind)
        if tiled:
            tiff.write(np.ascontiguousarray(planes[:, ::2, ::2]), subfiletype=1, **kind)
    np.testing.assert_array_equal(whole(path), pixels)
    slide = open_slide(path)
    assert slide.require_mpp().value == 0.5
    assert any("red, green and blue" in note for note in slide.notes)
    if tiled:
        np.testing.assert_array_equal(slide.read_level(1, 0, 0, 128, 128), half(pixels))


@pytest.mark.parametrize(
    ("names", "said"),
    [(["DAPI", "CD3", "CD8"], "'DAPI', 'CD3', 'CD8'"), (["", "", ""], "3 channels"), (None, "3 ch")],
)
def test_other_channels_are_refused_by_name(tmp_path: Path, names: list[str] | None, said: str) -> None:
    channels = {"Channel": {"Name": names}} if names else {}
    planes = np.ascontiguousarray(picture().transpose(2, 0, 1))
    path = write_ome(tmp_path / "a.ome.tif", [(planes, {"axes": "CYX"} | channels)], photometric="minisblack")
    with pytest.raises(SlideError, match=said):
        open_slide(path)


@pytest.mark.parametrize(
    "channel",
    [
        {"Name": "Hoechst 33342"},
        {"EmissionWavelength": 461.0, "EmissionWavelengthUnit": "nm"},
        {"Fluor": "GFP"},
        {"ContrastMethod": "Fluorescence"},
    ],
)
def test_fluorescence_of_eight_bits_is_refused(tmp_path: Path, channel: dict[str, Any]) -> None:
    one = {name: [value] for name, value in channel.items()}
    grey = write_ome(tmp_path / "g.ome.tif", [(picture()[:, :, 0], {"Channel": one})], photometric="minisblack")
    colour = write_ome(tmp_path / "c.ome.tif", [(picture(), {"axes": "YXS", "Channel": one})])
    for path in (grey, colour):
        with pytest.raises(SlideError, match="fluorescence"):
            open_slide(path)


def test_the_macro_image_first_is_not_the_slide(tmp_path: Path) -> None:
    slide = picture()
    wide = np.ascontiguousarray(picture(seed=3)[:90])
    images = [
        (wide, {"axes": "YXS", "Name": "macro", "PhysicalSizeX": 16.0, "PhysicalSizeY": 16.0}),
        (slide, {"axes": "YXS", "Name": "scan"}),
        (picture(512, 4), {"axes": "YXS", "Name": "Label image"}),  # larger, and still no slide
    ]
    path = write_ome(tmp_path / "a.ome.tif", images)
    np.testing.assert_array_equal(whole(path), slide)
    opened = open_slide(path)
    assert (opened.require_mpp().value, len(opened.levels)) == (0.5, 1)
    assert any("3 images" in note and "'scan'" in note for note in opened.notes)


def test_a_second_scene_is_no_level_of_the_first(tmp_path: Path) -> None:
    images = [(half(picture(seed=1)), {"axes": "YXS"}), (picture(), {"axes": "YXS", "Name": "two"})]
    for order in (images, images[::-1]):
        path = write_ome(tmp_path / "a.ome.tif", order)
        assert sizes(path) == [256]
        np.testing.assert_array_equal(whole(path), picture())
        assert any("2 images" in note for note in open_slide(path).notes)


@pytest.mark.parametrize(
    ("axes", "read", "said"), [("ZYXS", 2, "5 planes along z: number 3"), ("TYXS", 0, "5 points")]
)
@pytest.mark.parametrize("tiled", [True, False])
def test_stacks_say_which_plane_is_read(tmp_path: Path, axes: str, read: int, said: str, tiled: bool) -> None:
    stack = np.stack([picture(seed=n) for n in range(5)])
    path = write_ome(tmp_path / "a.ome.tif", [(stack, {"axes": axes})], **({} if tiled else {"tile": None}))
    np.testing.assert_array_equal(whole(path), stack[read])
    assert any(said in note for note in open_slide(path).notes)
    assert open_slide(path).require_mpp().value == 0.5


def test_levels_of_a_plane_are_its_own(tmp_path: Path) -> None:
    stack = np.stack([picture(seed=n) for n in range(3)])
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        kind = {"photometric": "rgb", **TILED}
        tiff.write(stack, subifds=1, metadata=UM | {"axes": "ZYXS"}, **kind)
        tiff.write(np.ascontiguousarray(stack[:, ::2, ::2]), subfiletype=1, **kind)
    np.testing.assert_array_equal(open_slide(path).read_level(1, 0, 0, 128, 128), half(stack[1]))


@pytest.mark.parametrize("compression", ["lzw", "deflate", "jpeg", None])
@pytest.mark.parametrize("tiled", [True, False])
def test_separate_planes_of_a_page(tmp_path: Path, compression: str | None, tiled: bool) -> None:
    planes = np.ascontiguousarray(picture().transpose(2, 0, 1))
    path = tmp_path / "a.ome.tif"
    kind = {"photometric": "rgb", "planarconfig": "separate", "compression": compression}
    kind |= {"tile": (64, 64)} if tiled else {}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(planes, subifds=1, metadata=UM | {"axes": "CYX"}, **kind)
        tiff.write(np.ascontiguousarray(planes[:, ::2, ::2]), subfiletype=1, **kind)
    slide = open_slide(path)
    assert (slide.reader, slide.require_mpp().value) == ("tiff", 0.5)
    assert sizes(path) == ([256, 128] if tiled else [256])
    assert np.abs(whole(path).astype(int) - picture()).max() <= (12 if compression == "jpeg" else 0)


# --- OME-XML ---------------------------------------------------------------------------------------------------

XML = """<?xml version='1.0'?><ome:OME xmlns:ome='x'><ome:Image Name='A &amp; B'><ome:Pixels DimensionOrder='XYZCT'
SizeX='10' SizeY='20' SizeZ='2' SizeC='3' SizeT='1' PhysicalSizeX='0.5' PhysicalSizeXUnit='&#181;m'>
<ome:Channel SamplesPerPixel='1' Name='Red'/>{more}</ome:Pixels></ome:Image></ome:OME>"""


def test_xml_in_any_spelling() -> None:
    (image,) = omexml.parse(XML.format(more="<ome:TiffData/>"))
    assert (image.name, image.width, image.height) == ("A & B", 10, 20)
    assert image.size == (("0.5", "µm"), None)
    assert image.pages(99, 1) == {
        0: (0, 0, 0),
        1: (1, 0, 0),
        2: (0, 1, 0),
        3: (1, 1, 0),
        4: (0, 2, 0),
        5: (1, 2, 0),
    }
    assert image.pages(3, 1) == {0: (0, 0, 0), 1: (1, 0, 0), 2: (0, 1, 0)}


def test_pages_as_the_blocks_say() -> None:
    blocks = "<ome:TiffData IFD='7' FirstC='1'/><ome:TiffData IFD='2' FirstZ='1' FirstC='1' PlaneCount='2'/>"
    (image,) = omexml.parse(XML.format(more=blocks))
    assert image.pages(99, 1) == {7: (0, 1, 0), 2: (1, 1, 0), 3: (0, 2, 0)}


def test_xml_of_strangers() -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;">]>'
    assert omexml.parse(bomb + XML.format(more="")) == ()
    assert omexml.parse(XML.format(more="")[:-40])[0].width == 10  # cut off behind what matters
    assert omexml.parse("OME is not <xml") == ()
    huge = XML.format(more="<ome:TiffData PlaneCount='999999999'/>" * 5000).replace(
        "SizeZ='2'", "SizeZ='999999999'"
    )
    assert len(omexml.parse(huge)[0].pages(4096, 1)) == 4096
    assert omexml.parse("<OME>" + "<a>" * 100_000) == ()


# --- any other TIFF --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(4, 1, 2), (1, 2, 4), (4, 2, 1)])
@pytest.mark.parametrize("flagged", [True, False])
def test_levels_in_any_order(tmp_path: Path, order: tuple[int, ...], flagged: bool) -> None:
    pixels = picture(512)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for step in order:
            tiff.write(
                half(pixels, step), subfiletype=int(flagged and step > 1), resolution=(20000 / step, 20000 / step),
                resolutionunit="CENTIMETER", **PLAIN, **TILED,
            )  # fmt: skip
    known = flagged or order == (1, 2, 4)
    assert sizes(path) == ([512, 256, 128] if known else [512])
    assert open_slide(path).require_mpp().value == 0.5
    np.testing.assert_array_equal(whole(path), pixels)
    assert len(open_slide(path).notes) == (0 if known else 1)


@pytest.mark.parametrize("flagged", [True, False])
def test_a_page_that_shows_something_else_is_no_level(tmp_path: Path, flagged: bool) -> None:
    pixels, other = picture(512), picture(512, seed=1)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(half(other), **PLAIN, **TILED)
        tiff.write(half(other, 4), subfiletype=int(flagged), **PLAIN, **TILED)
        tiff.write(pixels, **PLAIN, **TILED)
        tiff.write(half(pixels, 4), subfiletype=int(flagged), **PLAIN, **TILED)
        tiff.write(np.full((256, 256, 3), 240, np.uint8), **PLAIN, **TILED)
    slide = open_slide(path)
    assert sizes(path) == ([512, 128] if flagged else [512])
    if flagged:
        np.testing.assert_array_equal(slide.read_level(1, 0, 0, 128, 128), half(pixels, 4))
    assert any(f"{3 if flagged else 4} further images" in note for note in slide.notes)


def test_a_smaller_second_page_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for second, expected in ((half(picture(512)), [512, 256]), (half(picture(512, 1)), [512])):
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(picture(512), **PLAIN, **TILED)
            tiff.write(second, **PLAIN, **TILED)
        assert sizes(path) == expected


def test_a_striped_base_over_tiled_levels(tmp_path: Path) -> None:
    pixels = picture(512)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, rowsperstrip=30, resolution=(20000, 20000), resolutionunit="CENTIMETER", **PLAIN)
        tiff.write(half(pixels, 4), subfiletype=1, **PLAIN, **TILED)
    assert sizes(path) == [512, 128]
    assert open_slide(path).require_mpp().value == 0.5
    np.testing.assert_array_equal(whole(path), pixels)


@pytest.mark.parametrize("rows", [1, 7, 256, 512])
@pytest.mark.parametrize("compression", [None, "lzw", "jpeg", "zstd"])
def test_strips_are_read_as_tiles(tmp_path: Path, rows: int, compression: str | None) -> None:
    pixels = picture(512)[:, :300]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, rowsperstrip=max(8, rows) if compression == "jpeg" else rows,
                     compression=compression, **PLAIN)  # fmt: skip
    slide = open_slide(path)
    assert slide.reader == "tiff"
    assert slide.levels[0].tile_height >= 56
    expected = tifffile.imread(path)
    np.testing.assert_array_equal(whole(path), expected)
    np.testing.assert_array_equal(slide.read_level(0, 11, 250, 100, 262), expected[250:, 11:111])


def test_pages_of_one_size(tmp_path: Path) -> None:
    stack = np.stack([picture(seed=n) for n in range(5)])
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, **PLAIN, **TILED)
    np.testing.assert_array_equal(whole(path), stack[2])
    assert any("5 pages of the same size: number 3" in note for note in open_slide(path).notes)
    tifffile.imwrite(path, stack[:3, :, :, 0], photometric="minisblack", metadata=None, **TILED)
    with pytest.raises(SlideError, match="3 grey pages of the same size"):
        open_slide(path)


def test_imagej_stacks(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"

    def write(stack: np.ndarray, description: str) -> None:
        with tifffile.TiffWriter(path) as tiff:
            for n, page in enumerate(stack):
                kind = "rgb" if page.ndim == 3 else "minisblack"
                tiff.write(page, photometric=kind, description=description if n == 0 else None, metadata=None)

    stack = np.stack([picture(seed=n) for n in range(6)])
    write(stack, "ImageJ=1.53t\nimages=6\nslices=3\nframes=2\nhyperstack=true\n")
    np.testing.assert_array_equal(whole(path), stack[1])
    assert any("3 planes along z: number 2" in note for note in open_slide(path).notes)
    write(stack[..., 0], "ImageJ=1.53t\nimages=6\nchannels=3\nslices=2\nhyperstack=true\nmode=composite\n")
    with pytest.raises(SlideError, match="3 grey channels"):
        open_slide(path)
    write(stack[:1], "ImageJ=1.53t\nimages=6\nslices=6\n")
    with pytest.raises(SlideError, match="6 planes"):
        open_slide(path)


def test_a_mask_is_not_the_slide(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(picture(512)[:, :, 0] > 9, subfiletype=4, photometric="minisblack", metadata=None, **TILED)
        tiff.write(picture(), **PLAIN, **TILED)
    np.testing.assert_array_equal(whole(path), picture())


def test_four_grey_samples_are_channels(tmp_path: Path) -> None:
    pixels = np.dstack([picture(), picture()[:, :, 0]])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig", **TILED)
    with pytest.raises(SlideError, match="4 channels"):
        open_slide(tmp_path / "a.tif")


def test_fluorescence_by_aperio(tmp_path: Path) -> None:
    description = "Aperio Image Library v12\r\n256x256 (64x64)|AppMag = 20|MPP = 0.5|Dye = DAPI"
    grey = picture()[:, :, 0]
    tifffile.imwrite(
        tmp_path / "a.svs", grey, photometric="minisblack", description=description, metadata=None, **TILED
    )
    with pytest.raises(SlideError, match="fluorescence"):
        open_slide(tmp_path / "a.svs")
