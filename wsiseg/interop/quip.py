"""The CSV folders of the published TCGA nuclei (Hou et al.), written and read.

One CSV a tile of 4000 × 4000 level-0 pixels, the tiles counted from pixel (1, 1), named
``<x>_<y>_<w>_<h>_<mpp>_<factor>-features.csv``; beside it ``…-algmeta.json`` [1]_. A row is a nucleus:
``AreaInPixels`` (level-0 pixels), ``PhysicalSize`` (pixels after resampling by ``factor``: 1 below 0.375 mpp,
else 2) and ``Polygon``, ``[x0:y0:x1:y1:…]`` in level-0 pixels with one decimal and without a closing vertex.

The published nuclei are cut along the tiles' edges. Those written here are whole: each is in the one file whose
tile holds its centroid, and may reach beyond that tile.

References
----------
.. [1] Hou et al., Dataset of segmented nuclei in hematoxylin and eosin stained histopathology images of ten
   cancer types, Scientific Data 7 (2020), DOI 10.1038/s41597-020-0528-1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from wsiseg.core.atomic import replacing_folder
from wsiseg.core.featurefile import LARGEST_COORDINATE
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.plainfile import require_plain_file
from wsiseg.errors import UsageError
from wsiseg.interop.slideexport import SlideExport
from wsiseg.interop.text import content, joined, ring_texts
from wsiseg.results.nuclei import iter_nuclei

TILE_PX = 4000
ORIGIN_PX = 1
HEADER = b"AreaInPixels,PhysicalSize,Polygon\n"
_UPSAMPLED_FROM_MPP = 0.375
_NAME = re.compile(
    r"(?P<x>\d{1,9})_(?P<y>\d{1,9})_(?P<w>\d{1,9})_(?P<h>\d{1,9})_(?P<mpp>[\d.eE+-]+)_(?P<factor>[\d.]+)-features\.csv",
    re.ASCII,
)


@dataclass(frozen=True)
class QuipSlide:
    """What the files' names and their ``algmeta.json`` say about the slide."""

    name: str
    width: int
    height: int
    mpp: float
    analysis: str = "wsiseg"

    @property
    def factor(self) -> int:
        """By how much the published pipeline resamples a slide of this mpp."""
        return 1 if self.mpp < _UPSAMPLED_FROM_MPP else 2

    def tile(self, column: int, row: int) -> tuple[int, int, int, int]:
        """x, y, width, height of a tile, clipped to the slide."""
        x, y = ORIGIN_PX + column * TILE_PX, ORIGIN_PX + row * TILE_PX
        return x, y, max(0, min(TILE_PX, self.width - x)), max(0, min(TILE_PX, self.height - y))

    def stem(self, column: int, row: int) -> str:
        x, y, width, height = self.tile(column, row)
        return f"{x}_{y}_{width}_{height}_{self.mpp:.4g}_{self.factor}"


def export_slide(job: SlideExport) -> Iterator[Path]:
    """A slide of a results folder as tables of Hou et al.; see :func:`export_quip`."""
    if job.split is not None:
        raise UsageError("quip-csv has one file a tile of 4000 pixels: split is for GeoJSON")
    slide = job.slide
    # A record may have come from elsewhere: whatever it says, its names are no paths.
    files = job.folder / f"{job.id}_polygon" / (Path(slide.name).name or job.id)
    export_quip(job.nuclei, files, QuipSlide(slide.name, slide.width, slide.height, slide.mpp))
    yield files


def export_quip(nuclei_parquet: Path, folder: Path, slide: QuipSlide) -> int:
    """Write the nuclei of a slide as Hou et al. published theirs.

    Memory is bounded by a row group; the folder has its name only when it is complete, and replaces an earlier
    export.

    Parameters
    ----------
    nuclei_parquet : Path
        ``nuclei.parquet`` of a results folder.
    folder : Path
        Where the files go, by their convention ``<type>_polygon/<slide>.svs``.
    slide : QuipSlide
        Name, level-0 size and level-0 mpp of the slide.

    Returns
    -------
    int
        How many CSV files were written: tiles without nuclei have none.

    Raises
    ------
    UsageError
        ``folder`` exists and holds something else.
    EnvironmentFault
        The disk refuses.
    """
    folder = Path(folder)
    _refuse_foreign(folder)
    with replacing_folder(folder) as temporary:
        return write_quip(iter_nuclei(Path(nuclei_parquet), columns=()), temporary, slide)


def write_quip(parts: Iterable[Nuclei], folder: Path, slide: QuipSlide) -> int:
    """Append each part's nuclei to the files of the tiles that hold their centroids; the number of files."""
    columns = max(1, -(-(slide.width - ORIGIN_PX) // TILE_PX))
    rows = max(1, -(-(slide.height - ORIGIN_PX) // TILE_PX))
    seen: set[int] = set()
    for part in parts:
        cells = np.floor((part.centroids() - ORIGIN_PX) / TILE_PX).astype(np.int64)
        tile = np.clip(cells[:, 1], 0, rows - 1) * columns + np.clip(cells[:, 0], 0, columns - 1)
        for index in np.unique(tile).tolist():
            row, column = divmod(index, columns)
            stem = slide.stem(column, row)
            # Opened for each part: the number of open files does not grow with the slide.
            with open(folder / f"{stem}-features.csv", "ab") as file:
                if index not in seen:
                    file.write(HEADER)
                    (folder / f"{stem}-algmeta.json").write_text(_algmeta(slide, column, row), encoding="utf-8")
                    seen.add(index)
                file.write(_rows(part.take(tile == index), slide.factor))
    return len(seen)


def read_quip(folder: Path) -> Nuclei:
    """All polygons of a folder of ``…-features.csv`` files, in level-0 pixels.

    Parameters
    ----------
    folder : Path
        As :func:`export_quip` writes it or as published.

    Returns
    -------
    Nuclei
        Columns ``area_px`` (float64, level-0 pixels, as recorded), ``tile_x``, ``tile_y``, ``tile_w`` and
        ``tile_h`` (int64, the file's tile: published nuclei end at its edges). Rows with fewer than three
        vertices are left out.

    Raises
    ------
    UsageError
        No such files, or one that is not of this form.
    """
    return Nuclei.concatenate(list(iter_quip(folder)))


def iter_quip(folder: Path) -> Iterator[Nuclei]:
    """The nuclei of one file after the other, by the tiles' rows and columns; see :func:`read_quip`."""
    found = [(match, path) for path in Path(folder).glob("*.csv") if (match := _NAME.fullmatch(path.name))]
    if not found:
        raise UsageError(
            f"{folder} holds no <x>_<y>_<w>_<h>_<mpp>_<factor>-features.csv. Expected the folder of one slide, "
            "such as brca_polygon/TCGA-….svs."
        )
    for match, path in sorted(found, key=lambda item: (int(item[0]["y"]), int(item[0]["x"]))):
        tile = {f"tile_{name}": int(match[name]) for name in "xywh"}
        nuclei = _read_file(path)
        yield nuclei.with_columns(**{name: np.full(len(nuclei), v) for name, v in tile.items()})


def _read_file(path: Path) -> Nuclei:
    require_plain_file(path, "The file")
    columns = ("AreaInPixels", "Polygon")
    options = pacsv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=columns)
    try:
        # One thread: only that one counts rows, which errors are to name.
        table = pacsv.read_csv(path, pacsv.ReadOptions(use_threads=False), convert_options=options)
    except (pa.ArrowException, KeyError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.\nExpected the columns AreaInPixels,PhysicalSize,Polygon with "
            "[x0:y0:x1:y1:…] polygons."
        ) from error
    area, text = (pa.concat_arrays([pa.array([], pa.string()), *table.column(name).chunks]) for name in columns)
    numbers = pc.split_pattern(pc.utf8_trim(text, "[] "), ":")
    counts = np.diff(numbers.offsets.to_numpy()).astype(np.int64)
    if np.any(counts % 2):
        raise _bad_row(path, int(np.argmax(counts % 2)), "has an odd number of coordinates")
    flat = _numbers(path, numbers.flatten(), counts, "a coordinate")
    areas = _numbers(path, area, np.ones(len(area), dtype=np.int64), "an area")
    offsets = np.concatenate([[0], np.cumsum(counts // 2)]).astype(np.int64)
    nuclei = Nuclei(flat.reshape(-1, 2), offsets, {"area_px": areas})
    return nuclei.take(counts >= 6)


def _numbers(
    path: Path, texts: pa.StringArray, counts: npt.NDArray[np.int64], what: str
) -> npt.NDArray[np.float64]:
    """Texts as numbers; an error says the row, each of which has ``counts`` of the texts."""
    try:
        values = pc.cast(texts, pa.float64()).to_numpy(zero_copy_only=False)
        wrong = ~(np.abs(values) <= LARGEST_COORDINATE)
    except pa.ArrowInvalid:
        wrong = np.array([not _is_number(text) for text in texts.to_pylist()])
    if not wrong.any():
        return np.asarray(values, dtype=np.float64)
    place = int(np.argmax(wrong))
    row = int(np.searchsorted(np.cumsum(counts), place, side="right"))
    raise _bad_row(path, row, f"has {texts[place].as_py()!r:.40} as {what}")


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _bad_row(path: Path, row: int, problem: str) -> UsageError:
    """``row`` counts from 0; for people the header is line 1."""
    return UsageError(
        f"{path}: line {row + 2} {problem}.\nExpected numbers, in the column Polygon as [x0:y0:x1:y1:…]."
    )


def _rows(nuclei: Nuclei, factor: int) -> memoryview:
    # The published areas are counted in resampled pixels, and divided back.
    physical = np.rint(nuclei.areas() * factor**2).astype(np.int64)
    pixels, resampled = (pa.array(area).cast(pa.large_string()) for area in (physical // factor**2, physical))
    polygons = ring_texts(nuclei.vertices, nuclei.offsets, 1, (":", ":"), padded=True)
    return content(joined(pixels, ",", resampled, ",[", polygons, "]\n"))


def _algmeta(slide: QuipSlide, column: int, row: int) -> str:
    x, y, width, height = slide.tile(column, row)
    record = {
        "input_type": "wsi",
        "case_id": slide.name,
        "subject_id": slide.name,
        "analysis_id": slide.analysis,
        "mpp": slide.mpp,
        "image_width": slide.width,
        "image_height": slide.height,
        "tile_minx": x,
        "tile_miny": y,
        "tile_width": width,
        "tile_height": height,
        "output_level": "polygon",
        "out_file_prefix": slide.stem(column, row),
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def _refuse_foreign(folder: Path) -> None:
    """Replace only what is an export: deleting somebody's folder by a mistyped path is not to be undone."""
    if not folder.exists():
        return
    foreign = not folder.is_dir() or any(
        not (_NAME.fullmatch(path.name) or path.name.endswith("-algmeta.json")) for path in folder.iterdir()
    )
    if foreign:
        raise UsageError(f"{folder} exists and holds other files. Choose a new folder for the export.")
