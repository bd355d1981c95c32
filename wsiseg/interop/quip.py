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
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from wsiseg.core.atomic import replacing_folder
from wsiseg.core.featurefile import LARGEST_COORDINATE
from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import UsageError
from wsiseg.interop.quiptables import TABLE_NAME, Table, slide_size, tables
from wsiseg.interop.segmentation import Contents, Segmentation
from wsiseg.interop.slideexport import SlideExport
from wsiseg.interop.text import content, joined, ring_texts
from wsiseg.results.nuclei import iter_nuclei
from wsiseg.stitch.cuts import CutLines

TILE_PX = 4000
ORIGIN_PX = 1
HEADER = b"AreaInPixels,PhysicalSize,Polygon\n"
_UPSAMPLED_FROM_MPP = 0.375
ALIGNED_SINCE = datetime(2019, 12, 7, tzinfo=UTC)
"""Of earlier tables those of tiles that are not square are misaligned."""


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
        As :func:`export_quip` writes it or as published; or a tar archive of it.

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


def iter_quip(folder: Path, slide: str = "", passed: Counter[str] | None = None) -> Iterator[Nuclei]:
    """The nuclei of one file after the other, by the tiles' rows and columns; see :func:`read_quip`.

    Parameters
    ----------
    folder : Path
        The tables' folder or a tar archive, in which they come in its own order.
    slide : str
        Of an archive of several slides only the tables in folders of this name.
    passed : Counter, optional
        Rows with fewer than three vertices are counted here.
    """
    passed = Counter() if passed is None else passed
    for table in tables(Path(folder), slide):
        nuclei = _read_table(table, passed)
        tile = {"tile_x": table.x, "tile_y": table.y, "tile_w": table.width, "tile_h": table.height}
        yield nuclei.with_columns(**{name: np.full(len(nuclei), value) for name, value in tile.items()})


def describe_outlines(segmentation: Segmentation) -> Contents:
    """What the tables' names and the notes beside them say; see :mod:`wsiseg.interop.segmentation`.

    Tables are of before :data:`ALIGNED_SINCE`, and so may be misaligned, if their files are.
    """
    found = [table for path in segmentation.paths for table in tables(path, segmentation.name)]
    sizes = [size for path in segmentation.paths if (size := slide_size(path, segmentation.name))]
    oblong = [table for table in found if table.width != table.height]
    early = [table for table in oblong if table.modified < ALIGNED_SINCE.timestamp()]
    notes: tuple[str, ...] = ()
    if early:
        notes = (
            f"Tables of before {ALIGNED_SINCE:%Y-%m-%d}: nuclei of that version are misaligned in tiles that are "
            f"not square, here {len(early)} of {len(found)}. Expected: the version since. What lies there is "
            "imported as it is; the thumbnail and the grades of its patches show whether it is misaligned.",
        )
    return Contents(lines=_lines(found), size=sizes[0] if sizes else None, mpp=found[0].mpp, notes=notes)


def iter_outlines(segmentation: Segmentation, passed: Counter[str]) -> Iterator[Nuclei]:
    """The nuclei of one table after the other."""
    for path in segmentation.paths:
        yield from iter_quip(path, segmentation.name, passed)


def _lines(found: Sequence[Table]) -> CutLines | None:
    """The tiles' lattice; None where there is one tile, or they do not lie on one."""
    pitch = max(max(table.width, table.height) for table in found)
    x, y = min(table.x for table in found), min(table.y for table in found)
    regular = all((table.x - x) % pitch == 0 and (table.y - y) % pitch == 0 for table in found)
    return CutLines(pitch, x, y) if regular and len(found) > 1 else None


def _read_table(table: Table, passed: Counter[str]) -> Nuclei:
    columns = ("AreaInPixels", "Polygon")
    options = pacsv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=columns)
    path = table.label
    try:
        # One thread: only that one counts rows, which errors are to name.
        content = pa.BufferReader(table.content())
        rows = pacsv.read_csv(content, pacsv.ReadOptions(use_threads=False), convert_options=options)
    except (pa.ArrowException, KeyError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.\nExpected the columns AreaInPixels,PhysicalSize,Polygon with "
            "[x0:y0:x1:y1:…] polygons."
        ) from error
    area, text = (pa.concat_arrays([pa.array([], pa.string()), *rows.column(name).chunks]) for name in columns)
    numbers = pc.split_pattern(pc.utf8_trim(text, "[] "), ":")
    counts = np.diff(numbers.offsets.to_numpy()).astype(np.int64)
    if np.any(counts % 2):
        raise _bad_row(path, int(np.argmax(counts % 2)), "has an odd number of coordinates")
    flat = _numbers(path, numbers.flatten(), counts, "a coordinate")
    areas = _numbers(path, area, np.ones(len(area), dtype=np.int64), "an area")
    offsets = np.concatenate([[0], np.cumsum(counts // 2)]).astype(np.int64)
    nuclei = Nuclei(flat.reshape(-1, 2), offsets, {"area_px": areas})
    polygons = counts >= 6
    passed["row of fewer than three corners"] += int(np.count_nonzero(~polygons))
    return nuclei.take(polygons)


def _numbers(path: str, texts: pa.StringArray, counts: npt.NDArray[np.int64], what: str) -> npt.NDArray[np.float64]:
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


def _bad_row(path: str, row: int, problem: str) -> UsageError:
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
        not (TABLE_NAME.fullmatch(path.name) or path.name.endswith("-algmeta.json")) for path in folder.iterdir()
    )
    if foreign:
        raise UsageError(f"{folder} exists and holds other files. Choose a new folder for the export.")
