"""Which slides a user means, and which DICOM files are one slide."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from wsiseg.core.ngff import group_metadata
from wsiseg.errors import UsageError
from wsiseg.slide import open_slide
from wsiseg.slide.discover import find_slides
from wsiseg.slide.readers.dicom import WHOLE_SLIDE_IMAGE, Series, read_series
from wsiseg.slide.readers.omezarr.reader import SCHEMA
from wsiseg.testing import write_svs

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
JPEG, EXPLICIT, IMPLICIT, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in (".4.50", ".1", "", ".1.99"))
UNDEFINED = 0xFFFFFFFF


def element(
    group: int, number: int, kind: bytes, value: bytes, *, explicit: bool, length: int | None = None
) -> bytes:
    """One element, or an item (of group FFFE) without a kind."""
    length = len(value) if length is None else length
    head = struct.pack("<HH", group, number)
    if not explicit or group == 0xFFFE:
        return head + struct.pack("<I", length) + value
    if kind in (b"SQ", b"OB"):
        return head + kind + b"\0\0" + struct.pack("<I", length) + value
    return head + kind + struct.pack("<H", length) + value


def dicom(
    path: Path, series: str | None, *, kind: str = WHOLE_SLIDE_IMAGE, syntax: str = JPEG, open_ended: bool = False
) -> Path:
    """The header of a file, with a sequence that names another series before its own."""

    def uid(text: str) -> bytes:
        return text.encode() + b"\0" * (len(text) % 2)

    explicit, end = syntax != IMPLICIT, UNDEFINED if open_ended else None
    decoy = element(0x0020, 0x000E, b"UI", uid("9.9.9"), explicit=explicit)
    item = element(0xFFFE, 0xE000, b"", decoy + (ITEM_END if open_ended else b""), explicit=explicit, length=end)
    items = item + (SEQUENCE_END if open_ended else b"")
    data = b"\0" * 128 + b"DICM"
    data += element(0x0002, 0x0001, b"OB", b"\0\1", explicit=True)
    data += element(0x0002, 0x0010, b"UI", uid(syntax), explicit=True)
    data += element(0x0008, 0x0016, b"UI", uid(kind), explicit=explicit)
    data += element(0x0008, 0x1115, b"SQ", items, explicit=explicit, length=end)
    if series is not None:
        data += element(0x0020, 0x000E, b"UI", uid(series), explicit=explicit)
    path.write_bytes(data + element(0x0028, 0x0010, b"US", b"\0\1", explicit=explicit))
    return path


ITEM_END = element(0xFFFE, 0xE00D, b"", b"", explicit=False)
SEQUENCE_END = element(0xFFFE, 0xE0DD, b"", b"", explicit=False)


@pytest.mark.parametrize("syntax", [JPEG, EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("open_ended", [False, True])
def test_the_series_is_the_files_own(tmp_path: Path, syntax: str, open_ended: bool) -> None:
    path = dicom(tmp_path / "a.dcm", "1.2.3", syntax=syntax, open_ended=open_ended)
    assert read_series(path) == Series("1.2.3", WHOLE_SLIDE_IMAGE)


def test_files_that_do_not_say_their_series(tmp_path: Path) -> None:
    assert read_series(tmp_path / "none.dcm") is None
    assert read_series(dicom(tmp_path / "a.dcm", None)) is None
    assert read_series(dicom(tmp_path / "a.dcm", "1.2.3", syntax=DEFLATED)) is None
    whole = dicom(tmp_path / "a.dcm", "1.2.3", open_ended=True).read_bytes()
    for length in range(len(whole) - 14):
        (tmp_path / "a.dcm").write_bytes(whole[:length])
        found = read_series(tmp_path / "a.dcm")
        assert found is None or "1.2.3".startswith(found.uid)


def test_two_series_in_a_folder_are_two_slides(tmp_path: Path) -> None:
    for name, series in (("a", "1.1"), ("b", "1.2"), ("c", "1.1"), ("d", "1.2")):
        dicom(tmp_path / f"{name}.dcm", series)
    dicom(tmp_path / "e.dcm", "1.3", kind=SEGMENTATION)
    (tmp_path / "f.dcm").write_bytes(b"no DICOM")
    (tmp_path / "sub").mkdir()
    dicom(tmp_path / "sub" / "g.dcm", "1.1")
    expected = [tmp_path / name for name in ("a.dcm", "b.dcm", "f.dcm", "sub/g.dcm")]
    assert find_slides([str(tmp_path)]) == expected
    named = find_slides([str(tmp_path / "*.dcm")])
    assert [path.name for path in named] == ["a.dcm", "b.dcm", "e.dcm", "f.dcm"]  # what is named gets its own error
    assert find_slides([str(tmp_path / "c.dcm"), str(tmp_path)])[0].name == "c.dcm"
    assert len(find_slides([str(tmp_path / "c.dcm"), str(tmp_path)])) == 4


def test_folders_patterns_and_files(tmp_path: Path) -> None:
    for name in ("b.svs", "a.tif", "notes.txt", ".hidden.svs", "sub/c.ndpi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "store.ome.zarr").mkdir()
    (tmp_path / "store.ome.zarr" / "inside.png").write_bytes(b"")
    found = find_slides([str(tmp_path), str(tmp_path / "b.svs"), str(tmp_path / "notes.txt")])
    names = [str(path.relative_to(tmp_path)) for path in found]
    assert names == ["store.ome.zarr", "a.tif", "b.svs", "sub/c.ndpi", "notes.txt"]
    assert find_slides([str(tmp_path / "*.svs")]) == [tmp_path / "b.svs"]


@pytest.mark.parametrize(("name", "says"), [("gone.svs", "no such file"), ("empty", "no slides in the folder")])
def test_nothing_found_is_said(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=says):
        find_slides([str(tmp_path / name)])


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_slides([str(folder)])]


def test_results_are_no_slides(tmp_path: Path) -> None:
    """A second run over a folder that holds its own results finds the same slides."""
    (tmp_path / "a.svs").write_bytes(b"x")
    result = tmp_path / "results" / "a"
    (result / "maps.zarr").mkdir(parents=True)
    (result / "overlays").mkdir()
    for name in ("thumbnail.png", "overlays/b.png"):
        (result / name).write_bytes(b"x")
    (result / "slide.json").write_text(json.dumps({"schema": "wsiseg.slide", "version": 1}, indent=1))
    assert names(tmp_path) == ["a.svs"]
    for given in (tmp_path / "results", result):
        with pytest.raises(UsageError, match="results of wsiseg are passed over"):
            find_slides([str(given)])
    assert find_slides([str(result / "thumbnail.png")]) == [result / "thumbnail.png"]


def test_a_folder_with_a_record_of_another_program_is_searched(tmp_path: Path) -> None:
    (tmp_path / "slide.json").write_text('{"slide": 1}')
    (tmp_path / "a.svs").write_bytes(b"x")
    assert names(tmp_path) == ["a.svs"]


def test_pipes_and_devices_hang_nothing(tmp_path: Path) -> None:
    """What is named as a slide is, so that it gets its error; the rest is passed over."""
    for name in ("pipe.svs", "pipe.dcm", "pipe", "slide.json"):
        os.mkfifo(tmp_path / name)
    for name in ("zero.dcm", "zero"):
        (tmp_path / name).symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "again").symlink_to(tmp_path)
    assert names(tmp_path) == ["pipe.dcm", "pipe.svs", "zero.dcm"]
    assert read_series(tmp_path / "pipe") is None
    assert read_series(tmp_path / "zero") is None


def test_dicom_is_found_by_its_content(tmp_path: Path) -> None:
    for name, series in (("IM0001", "1.1"), ("IM0002", "1.1"), ("1.2.840.7", "1.2"), ("z.dcm", "1.2")):
        dicom(tmp_path / name, series)
    dicom(tmp_path / "IM0003", "1.3", kind=SEGMENTATION)
    (tmp_path / "README").write_text("no slide")
    assert names(tmp_path) == ["1.2.840.7", "IM0001"]
    assert find_slides([str(tmp_path / "IM0002"), str(tmp_path / "IM0001")]) == [tmp_path / "IM0002"]


def image_group(folder: Path, **ome: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "zarr.json").write_text(json.dumps(group_metadata({"ome": {"version": "0.5", **ome}})))
    return folder


def test_zarr_images_are_found_by_their_metadata(tmp_path: Path) -> None:
    image_group(tmp_path / "image", multiscales=[])
    image_group(tmp_path / "sub" / "plate", plate={})
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "zarr.json").write_text(json.dumps(group_metadata({})))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".zattrs").write_text("[" * 100_000)
    assert names(tmp_path) == ["image", "sub/plate"]
    assert find_slides([str(tmp_path / "image")]) == [tmp_path / "image"]


def test_a_store_is_not_taken_beside_the_slide_that_it_was_tiled_from(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    slide = write_svs(tmp_path / "a.svs", pixels, tile=32, levels=(1,))
    store = tmp_path / "tiles" / "a.zarr"
    store.mkdir(parents=True)
    source = {"name": "a.svs", "fingerprint": open_slide(slide).fingerprint()}
    own = {"wsiseg": {"schema": SCHEMA, "source": source}}
    (store / "zarr.json").write_text(json.dumps(group_metadata(own)))
    assert names(tmp_path) == ["a.svs"]
    assert names(tmp_path / "tiles") == ["a.zarr"]
    shutil.copy(slide, tmp_path / "b.svs")
    slide.write_bytes(slide.read_bytes() + b"changed")
    assert names(tmp_path) == ["a.svs", "b.svs", "tiles/a.zarr"]
