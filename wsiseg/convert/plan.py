"""What ``wsiseg tile`` is going to write: the levels, their shards in order, what the store says of its source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.convert.shards import COARSEST_RATIO, PlannedLevel, ShardTask
from wsiseg.core.geometry import Scale
from wsiseg.core.grid import TileGrid
from wsiseg.errors import UsageError
from wsiseg.slide.open import SlideSource
from wsiseg.slide.readers.omezarr.reader import SCHEMA
from wsiseg.slide.readers.omezarr.shards import Codec, ShardLayout
from wsiseg.slide.remote import location
from wsiseg.slide.slide import Slide
from wsiseg.slide.types import Level, Mpp
from wsiseg.version import __version__

SMALLEST_LEVEL_PX = 1024
TISSUE_MARGIN_UM = 80.0
"""The halo of the tiles at the rim of the tissue, and nuclei that are kept beyond it, see stored pixels."""
_BLANK_BATCH = 64
CODECS: tuple[Codec, ...] = ("zstd", "jpeg")


@dataclass(frozen=True)
class TilingOptions:
    """What decides the content of a store.

    Attributes
    ----------
    mpp : float or None
        Level 0 is the slide resampled to this many microns per pixel (:meth:`wsiseg.slide.slide.Slide.scale`), and
        the only level that is not derived. None copies the slide's own levels.
    tissue_only : bool
        Leave out the chunks that are farther than 80 µm from tissue; they read as white.
    codec : {"zstd", "jpeg"}
        zstd is exact; jpeg (quality 90, no chroma subsampling) is not.
    """

    mpp: float | None = None
    tissue_only: bool = False
    codec: Codec = "zstd"


@dataclass(frozen=True)
class TilingPlan:
    """All that is to be done for one store; picklable.

    Attributes
    ----------
    out : Path
    name : str
        The slide's name.
    key : str
        SHA-256 of what decides the content.
    levels : tuple of PlannedLevel
    stages : tuple of tuples of tuples of ShardTask
        A stage needs the stages before it; its entries are independent of each other; one entry is one task.
    record : dict
        What goes under ``wsiseg`` in the store's attributes, but for what only the end knows.
    mpp : float or None
        Microns per pixel of the store's level 0.
    """

    out: Path
    name: str
    key: str
    levels: tuple[PlannedLevel, ...]
    stages: tuple[tuple[tuple[ShardTask, ...], ...], ...]
    record: dict[str, Any]
    mpp: float | None

    @property
    def shards(self) -> int:
        return sum(len(entry) for stage in self.stages for entry in stage)


def plan_tiling(slide: Slide, out: Path, options: TilingOptions) -> TilingPlan:
    """Levels, shards and their order, and what the store will say of its source; writes nothing.

    Raises
    ------
    UsageError
        ``options.mpp`` is finer than the slide, or too coarse to be read within bounds.
    MissingMppError
        The options need the slide's mpp, and it is unknown.
    """
    if options.codec not in CODECS:
        raise UsageError(f"codec {options.codec!r}: expected one of {', '.join(CODECS)}.")
    levels = _plan_levels(slide, options)
    record = _record(slide, options, levels)
    tissue = _tissue_near(slide) if options.tissue_only else None
    own = [level for level in levels if not level.derived]
    copies = [task for level in own for task in _copies(slide, out, level, tissue)]
    blank = [task for task in copies if task.keep is not None and not task.keep.any()]
    single = [(task,) for task in copies if task.keep is None or task.keep.any()]
    stages: list[tuple[tuple[ShardTask, ...], ...]] = [(*single, *_batches(blank))]
    derived = [(level, finer) for finer, level in pairwise(levels) if level.derived]
    # Once a level is one shard, the rest of the pyramid is less work than handing it out.
    tail: list[ShardTask] = []
    for level, finer in derived:
        tasks = [ShardTask(out, level, row, column, finer=finer) for row, column in level.layout.shards()]
        if len(tasks) == 1:
            tail += tasks
        else:
            stages.append(tuple((task,) for task in tasks))
    if tail:
        stages.append((tuple(tail),))
    mpp = slide.mpp.value * levels[0].scale.downsample if slide.mpp else None
    return TilingPlan(out, slide.name, str(record["key"]), levels, tuple(stages), record, mpp)


def _plan_levels(slide: Slide, options: TilingOptions) -> tuple[PlannedLevel, ...]:
    own = [level for level in slide.levels if not level.derived]
    if options.mpp is None:
        levels = [
            _planned(
                str(i), level.width, level.height, level.downsample, Scale(level.downsample), 1.0, options.codec
            )
            for i, level in enumerate(_distinct(own))
        ]
    else:
        scale = slide.scale(options.mpp)
        if scale.downsample < 1:
            raise UsageError(
                f"--mpp {options.mpp:g}: finer than {slide.name}, which has {slide.require_mpp().value:g}. "
                "Give a larger number, or leave --mpp out to copy the slide's own levels."
            )
        width, height = scale.size(slide.width, slide.height)
        ratio = min(scale.downsample / level.downsample for level in own if level.downsample <= scale.downsample)
        if ratio > COARSEST_RATIO:
            most = slide.require_mpp().value * COARSEST_RATIO * max(level.downsample for level in own)
            raise UsageError(
                f"--mpp {options.mpp:g}: too coarse for {slide.name}, whose {slide.width} × {slide.height} pixels "
                f"have {slide.require_mpp().value:g}. Give at most {most:g}."
            )
        levels = [_planned("0", width, height, 1.0, scale, ratio, options.codec)]
    lattice = levels[0].scale.downsample
    while max(levels[-1].layout.width, levels[-1].layout.height) > SMALLEST_LEVEL_PX:
        last = levels[-1]
        width, height = -(-last.layout.width // 2), -(-last.layout.height // 2)
        downsample = last.downsample * 2
        levels.append(
            _planned(
                str(len(levels)),
                width,
                height,
                downsample,
                Scale(downsample * lattice),
                2.0,
                options.codec,
                derived=True,
            )
        )
    return tuple(levels)


def _planned(
    path: str,
    width: int,
    height: int,
    downsample: float,
    scale: Scale,
    ratio: float,
    codec: Codec,
    *,
    derived: bool = False,
) -> PlannedLevel:
    return PlannedLevel(path, ShardLayout(width, height, codec), downsample, scale, ratio, derived)


def _distinct(levels: Sequence[Level]) -> Iterator[Level]:
    """Levels of falling resolution; NGFF has no place for two of the same."""
    last = 0.0
    for level in levels:
        if level.downsample > last:
            last = level.downsample
            yield level


def _copies(
    slide: Slide, out: Path, level: PlannedLevel, tissue: tuple[npt.NDArray[np.bool_], float] | None
) -> Iterator[ShardTask]:
    layout = level.layout
    source = SlideSource(location(slide.path), slide.override)
    keep = None if tissue is None else _chunks_touching(layout, tissue[0], tissue[1] / level.scale.downsample)
    for row, column in layout.shards():
        part = None
        if keep is not None:
            part = keep[
                row * layout.side : (row + 1) * layout.side, column * layout.side : (column + 1) * layout.side
            ]
        yield ShardTask(out, level, row, column, source=source, keep=part)


def _batches(tasks: Sequence[ShardTask]) -> Iterator[tuple[ShardTask, ...]]:
    """Shards without a chunk to keep, many to a task: each is one small file."""
    for first in range(0, len(tasks), _BLANK_BATCH):
        yield tuple(tasks[first : first + _BLANK_BATCH])


def _chunks_touching(layout: ShardLayout, mask: npt.NDArray[np.bool_], mask_pixel: float) -> npt.NDArray[np.bool_]:
    """Which chunks touch the mask, bool (rows · side, columns · side), for whole shards."""
    grid = TileGrid(layout.width, layout.height, layout.chunk, 0)
    touched = np.zeros(len(grid), dtype=bool)
    touched[grid.touching(mask, mask_pixel)] = True
    keep = np.zeros((layout.rows * layout.side, layout.columns * layout.side), dtype=bool)
    keep[: grid.rows, : grid.columns] = touched.reshape(grid.rows, grid.columns)
    return keep


def _tissue_near(slide: Slide) -> tuple[npt.NDArray[np.bool_], float]:
    """The tissue and a margin around it, and the side of a mask pixel in level-0 pixels."""
    from wsiseg.tissue import find_tissue

    tissue = find_tissue(slide, margin_um=TISSUE_MARGIN_UM)
    return tissue.mask, tissue.scale.downsample


def _record(slide: Slide, options: TilingOptions, levels: Sequence[PlannedLevel]) -> dict[str, Any]:
    lattice = levels[0].scale.downsample
    bounds = slide.bounds
    mpp = slide.mpp
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "version": 1,
        "wsiseg": __version__,
        "source": {
            "name": slide.name,
            "fingerprint": slide.fingerprint(),
            "reader": slide.reader,
            "vendor": slide.vendor,
            "width": slide.width,
            "height": slide.height,
        },
        "downsample": lattice,
        "mpp": None if mpp is None else mpp.value * lattice,
        "mpp_source": None if mpp is None else _origin(mpp),
        "mpp_note": "" if mpp is None else mpp.note,
        "bounds": [value / lattice for value in (bounds.x0, bounds.y0, bounds.x1, bounds.y1)],
        "background": list(slide.description.background),
        "properties": dict(slide.properties),
        "codec": options.codec,
        "exact": options.codec == "zstd",
        "tissue_only": options.tissue_only,
        "levels": [level_note(level) for level in levels],
    }
    decisive = {name: value for name, value in record.items() if name not in ("source", "properties", "wsiseg")}
    decisive["fingerprint"] = record["source"]["fingerprint"]
    decisive["sizes"] = [(level.layout.width, level.layout.height, level.layout.shard) for level in levels]
    record["key"] = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return record


def _origin(mpp: Mpp) -> str:
    """Where the microns per pixel come from in the first place, through any number of stores."""
    inner = mpp.source.removeprefix("metadata:ome-zarr (")
    return inner.removesuffix(")") if inner != mpp.source else mpp.source


def level_note(level: PlannedLevel) -> dict[str, Any]:
    return {"path": level.path, "downsample": level.downsample, "derived": level.derived}
