"""Every reader passes the suite that all readers have to pass, on drawn slides, damaged ones and real ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wsiseg.convert.run import tile_slide
from wsiseg.run.schedule import SerialExecutor
from wsiseg.slide import open_slide
from wsiseg.slide.lethal import ChildReader, GuardedReader
from wsiseg.slide.readers.image import ImageReader
from wsiseg.slide.readers.omezarr.reader import OmeZarrReader
from wsiseg.slide.readers.openslide.reader import OpenSlideReader
from wsiseg.slide.readers.tiff.reader import TiffReader
from wsiseg.slide.types import Reader
from wsiseg.testing import corrupt_tile, drop_tile, write_svs
from wsiseg.testing.conformance import reader as suite
from wsiseg.testing.images import texture

READERS: dict[str, tuple[str, Callable[[Path], Reader]]] = {
    "tiff": ("s.svs", partial(TiffReader, vendor="aperio")),
    "openslide": ("s.svs", OpenSlideReader),
    "ome-zarr": ("s.ome.zarr", OmeZarrReader),
    "png": ("s.png", partial(ImageReader, kind="PNG")),
    "jpeg": ("s.jpg", partial(ImageReader, kind="JPEG")),
    "guarded": ("s.svs", lambda path: GuardedReader(ChildReader(path))),
}
REAL: dict[str, Callable[[Path], Reader]] = {
    "CMU-1-Small-Region.svs": partial(TiffReader, vendor="aperio"),
    "tcga-cr-7395-01a-01-ts1.svs": OpenSlideReader,
    "boxes.tiff": partial(TiffReader, vendor="generic-tiff"),
    "boxes_0.dcm": OpenSlideReader,
}


def slow_are(*slow: str, names: Iterable[str]) -> list[Any]:
    """Readers that start a process, or decode much for little."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture as a slide in every format that wsiseg writes."""
    folder = tmp_path_factory.mktemp("formats")
    pixels = texture(700, 900, period=24)
    write_svs(folder / "s.svs", pixels, tile=256, levels=(1, 4))
    Image.fromarray(pixels).save(folder / "s.png")
    Image.fromarray(pixels).save(folder / "s.jpg")
    with open_slide(folder / "s.svs") as slide:
        tile_slide(slide, folder / "s.ome.zarr", executor=SerialExecutor())
    return folder


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", slow_are("guarded", names=READERS))
def test_readers(name: str, check: Callable[[suite.Open], None], drawn_once: Path) -> None:
    file, read = READERS[name]
    check(lambda: read(drawn_once / file))


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", slow_are("tcga-cr-7395-01a-01-ts1.svs", names=REAL))
def test_real_slides(name: str, check: Callable[[suite.Open], None], real_data: Callable[[str], Path]) -> None:
    path = real_data(f"slides/{name}")
    check(lambda: REAL[name](path))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tiff", corrupt_tile),
        ("tiff", drop_tile),
        ("openslide", corrupt_tile),  # which tiles a file lacks OpenSlide does not tell
        pytest.param("guarded", corrupt_tile, marks=pytest.mark.slow),
    ],
)
def test_damaged_tiles(name: str, damage: Callable[[Path, int], None], drawn_once: Path, tmp_path: Path) -> None:
    file, read = READERS[name]
    path = Path(shutil.copy(drawn_once / file, tmp_path))
    for tile in (0, 5, 11):
        damage(path, tile)
    suite.check_damage(lambda: read(path), lambda: read(drawn_once / file))


def test_damaged_stores(drawn_once: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(drawn_once / "s.ome.zarr", tmp_path / "s.ome.zarr"))
    shards = sorted(file for file in (path / "0").rglob("*") if file.is_file() and file.name != "zarr.json")
    content = bytearray(shards[0].read_bytes())
    content[100:200] = bytes(100)
    shards[0].write_bytes(content)
    suite.check_damage(lambda: OmeZarrReader(path), lambda: OmeZarrReader(drawn_once / "s.ome.zarr"))
