"""Files that are only a slide's shell are refused, with what is missing, whatever microns per pixel are given."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsiseg.errors import SlideError
from wsiseg.slide import open_slide

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def jpeg(path: Path) -> Path:
    Image.fromarray(PIXELS).save(path, "JPEG")
    return path


def tiff(path: Path) -> Path:
    tifffile.imwrite(path, PIXELS, tile=(32, 32), photometric="rgb", metadata=None)
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(SlideError) as caught:
        open_slide(path, mpp=0.5)
    assert len(str(caught.value).splitlines()) == 3
    assert path.name in str(caught.value)
    return str(caught.value)


def test_a_mirax_file_without_its_folder(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "a.mrxs")
    assert "the folder a with its pixels is not there" in refusal(path)
    (tmp_path / "a").mkdir()
    assert "the folder a with its pixels has no Slidedat.ini" in refusal(path)
    (tmp_path / "a" / "Slidedat.ini").write_text("[GENERAL]\n")
    assert "OpenSlide cannot open it" in refusal(path) or "not an image" in refusal(path)


def test_parts_of_a_mirax_slide_name_it(tmp_path: Path) -> None:
    jpeg(tmp_path / "a.mrxs")
    (tmp_path / "a").mkdir()
    for name in ("Slidedat.ini", "Index.dat", "Data0000.dat"):
        assert "Give the slide itself: a.mrxs" in refusal(text(tmp_path / "a" / name, "[GENERAL]\n"))
    assert "Give the file beside it: a.mrxs" in refusal(tmp_path / "a")


def test_mirax_in_capitals_says_what_it_must_be_called(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "a.MRXS")
    (tmp_path / "a").mkdir()
    text(tmp_path / "a" / "Slidedat.ini", "[GENERAL]\n")
    assert "in small letters" in refusal(path)


@pytest.mark.parametrize(("name", "with_pixels"), [("a.vsi", True), ("a.vsi", False), ("a.tif", True)])
def test_an_olympus_overview(tmp_path: Path, name: str, with_pixels: bool) -> None:
    path = tiff(tmp_path / name)
    if with_pixels:
        (tmp_path / "_a_" / "stack1").mkdir(parents=True)
        (tmp_path / "_a_" / "stack1" / "frame_t.ets").write_bytes(b"SIS\0" + bytes(100))
        assert "Olympus" in refusal(tmp_path / "_a_" / "stack1" / "frame_t.ets")
        assert "Olympus" in refusal(tmp_path / "_a_")
    said = refusal(path)
    assert "only the overview of an Olympus VSI slide" in said
    assert "_a_" in said
    assert "bioformats2raw" in said


def test_a_tiff_beside_another_slides_folder_opens(tmp_path: Path) -> None:
    (tmp_path / "_b_" / "stack1").mkdir(parents=True)
    (tmp_path / "_b_" / "stack1" / "frame_t.ets").write_bytes(b"SIS\0")
    assert open_slide(tiff(tmp_path / "a.tif")).width == 64


def test_a_hamamatsu_index_without_its_images(tmp_path: Path) -> None:
    content = "[Virtual Microscope Specimen]\nImageFile=a.jpg\nImageFile(1,0)=b.jpg\nMapFile=map.jpg\n"
    path = text(tmp_path / "a.vms", content)
    jpeg(tmp_path / "a.jpg")
    assert "its image b.jpg and 1 more is not beside it" in refusal(path)


def test_lists_of_slides(tmp_path: Path) -> None:
    ndpis = text(tmp_path / "a.ndpis", "[NanoZoomer Digital Pathology Image Set]\nNoImages=2\nImage0=a.ndpi\n")
    assert "a list of NDPI files" in refusal(ndpis)
    afi = text(tmp_path / "a.afi", "<?xml version='1.0'?>\n<ImageList><Image/></ImageList>")
    assert "a list of SVS files" in refusal(afi)


def test_a_pipe_among_dicom_files(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(128) + b"DICM" + bytes(100))
    os.mkfifo(tmp_path / "pipe")
    assert "pipe there is no file" in refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"GIF89a" + bytes(9), "a GIF image"), (b"\x89HDF\r\n\x1a\n", "an HDF5 file"), (b"\xffO\xffQ", "a JPEG 2000")],
)
def test_what_it_is_instead(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.svs").write_bytes(content)
    assert said in refusal(tmp_path / "a.svs")
