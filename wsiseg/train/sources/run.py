"""``kind = "run"``: nuclei that ``wsiseg segment`` found on slides, as pseudo-labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.core.geometry import Box, Scale, Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize
from wsiseg.core.select import ALL, Select
from wsiseg.errors import UsageError
from wsiseg.results.folder import read_records
from wsiseg.results.maps import read_label_region
from wsiseg.results.nuclei import read_nuclei
from wsiseg.results.record import SegmentedRecord
from wsiseg.slide import Slide, open_slide
from wsiseg.slide.remote import present
from wsiseg.train.patches import KNOWN, OUTSIDE, UNKNOWN, PatchPool
from wsiseg.train.source import Frame
from wsiseg.train.sources import cut
from wsiseg.train.sources.slides import Mask, apportion, draw_places, read_patch

_LOST_MARGIN = 2
"""Cells of the tissue's lattice, 8 µm each, around lost area: nuclei that touched it were dropped."""


@dataclass(frozen=True)
class Segmented:
    """One slide of a run: where nuclei were looked for, on the lattice ``scale``."""

    slide: Path
    mpp: float
    nuclei: Path
    looked: Mask
    scale: Scale


@dataclass(frozen=True)
class RunSource:
    """Patches drawn from the tissue of segmented slides, labelled with the nuclei that were found.

    Nuclei with a high score are kept. Nothing is known where there was another one, nor outside the tissue, nor
    near area that was lost: there a missing nucleus means nothing.

    Attributes
    ----------
    data : Path
        Results folder of ``wsiseg segment``.
    slides : Path or None
        Where the slides lie, by their names; by default where they were segmented.
    count : int
        Patches, from each slide in proportion to its tissue.
    seed : int
        Decides what is drawn.
    sure : float
        Least score of a nucleus that is kept.
    margin_um : float
        So far around a nucleus that is not kept nothing is known.
    grades : tuple of str
        Only slides with one of these grades, for example ``["Best", "Good"]``; all by default.
    select : Select
        Which slides; those of other ``grades`` do not count.
    licence : str
        Of the slides, for the model card.
    """

    data: Path
    slides: Path | None = None
    count: int = 1000
    seed: int = 0
    sure: float = 0.85
    margin_um: float = 1.0
    grades: tuple[str, ...] = ()
    select: Select = ALL
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0:
            raise ValueError(f"count {self.count}, seed {self.seed}: expected at least 1 and 0")
        if not 0 <= self.sure <= 1 or not 0 <= self.margin_um <= 20:
            raise ValueError(f"sure {self.sure}, margin_um {self.margin_um}: expected 0 to 1, and 0 to 20 µm")

    def describe(self, frame: Frame) -> dict[str, Any]:
        records = self._records()
        content = "\n".join(f"{record.id} {record.key}" for record in records)
        return {
            "kind": "run",
            "revision": cut.REVISION,
            "content": hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest(),
            "models": _models(records),
            "draw": [self.count, self.seed],
            "labels": [self.sure, self.margin_um],
            "patch": {"mpp": frame.mpp, "side": frame.side},
        }

    def statements(self) -> tuple[str, ...]:
        records = self._records()
        return (
            f"{self.count} patches of {len(records)} slides of {self.data.name} with pseudo-labels by "
            f"{', '.join(_models(records))} (score at least {self.sure:g}), licence of the slides: {self.licence}",
        )

    def parts(self, frame: Frame, first: int) -> Iterator[PatchPool]:
        found = {record.id: self._segmented(record) for record in self._records()}
        areas = [float(np.count_nonzero(s.looked)) * (s.scale.downsample * s.mpp) ** 2 for s in found.values()]
        if not sum(areas):
            raise UsageError(f"{self.data}: no tissue in {len(found)} slides to draw patches from")
        places: list[cut.Place] = []
        for n, (name, count) in enumerate(zip(found, apportion(self.count, areas), strict=True)):
            if count:
                one = found[name]
                with self._open(one) as slide:
                    scale = slide.scale(frame.mpp)
                    width, height = scale.size(slide.width, slide.height)
                rng = np.random.default_rng([self.seed, n])
                places += draw_places(rng, name, one.looked, one.scale, (height, width), scale, frame.side, count)
        return cut.joined(self._patches(found, places[first:], frame))

    def _patches(
        self, found: Mapping[str, Segmented], places: list[cut.Place], frame: Frame
    ) -> Iterator[PatchPool]:
        for name, group in groupby(places, key=lambda place: place.name):
            with self._open(found[name]) as slide:
                scale = slide.scale(frame.mpp)
                for place in group:
                    window = Window(place.x, place.y, frame.side, frame.side)
                    labelled = self._label(slide, found[name], window, scale)
                    yield cut.patch(labelled, 0, 0, window.shape)

    def _label(self, slide: Slide, found: Segmented, window: Window, scale: Scale) -> cut.Labelled:
        image, known = read_patch(slide, window, scale)
        margin = self.margin_um / (found.mpp * scale.downsample)
        near = scale.box(window.pad(int(np.ceil(margin))))
        nuclei = read_nuclei(found.nuclei, near, columns=["score"])
        sure = nuclei.columns["score"].astype(np.float64) >= self.sure
        # Drawn twice as fine: the mean of 2 × 2 is the share of a pixel that is covered.
        fine = Window(2 * window.x, 2 * window.y, 2 * window.width, 2 * window.height)
        twice = _draw(nuclei.take(sure), fine, Scale(scale.downsample / 2))
        drawn = cut.rescale(np.zeros((*twice.shape, 3), dtype=np.uint8), twice, 0.5)
        padded = window.pad(int(np.ceil(margin)))
        doubtful = _draw(nuclei.take(~sure), padded, scale) > 0
        if doubtful.any():
            doubtful = ndimage.distance_transform_edt(~doubtful) <= margin
        unknown = (doubtful[window.within(padded)] | ~_looked(found, window, scale)) & (drawn.labels == 0)
        known = np.where(unknown & (known == KNOWN), UNKNOWN, known).astype(np.uint8)
        inside = known != OUTSIDE
        return cut.Labelled(
            image, np.where(inside, drawn.labels, 0), np.where(inside & ~unknown, drawn.covered, 0), known
        )

    def _records(self) -> list[SegmentedRecord]:
        """Of the slides that have nuclei and a grade that is wanted."""
        if not self.data.is_dir():
            raise UsageError(f"{self.data}: there is no such folder of results")
        records = [record for record in read_records(self.data) if isinstance(record, SegmentedRecord)]
        if not records:
            raise UsageError(f"{self.data}: no results of wsiseg segment in it")
        if self.grades:
            held = sorted({record.grade.grade for record in records})
            records = [record for record in records if record.grade.grade in self.grades]
            if not records:
                raise UsageError(f"{self.data}: no slide graded {' or '.join(self.grades)}; there are {held}")
        return list(self.select.named({record.id: record for record in records}, self.data).values())

    def _segmented(self, record: SegmentedRecord) -> Segmented:
        path = present(record.slide.path) if self.slides is None else self.slides / record.slide.name
        if not path.exists():
            raise UsageError(f"{path}: the slide of {self.data / record.id} is not there; say where with slides")
        mpp = record.slide.mpp
        with open_slide(path, mpp=mpp) as slide:
            if slide.fingerprint() != record.slide.fingerprint:
                raise UsageError(f"{path}: its content is not what {self.data / record.id} was made from")
            whole = Box(0.0, 0.0, float(slide.width), float(slide.height))
        folder = self.data / record.id
        tissue, _, scale = read_label_region(folder / "maps.zarr", whole, name="tissue")
        lost, _, _ = read_label_region(folder / "maps.zarr", whole, name="lost")
        # A cell at the rim of a region of interest is only partly in it.
        looked = ndimage.binary_erosion(tissue > 0, border_value=1)
        if lost.any():
            looked &= ~ndimage.binary_dilation(lost > 0, iterations=_LOST_MARGIN)
        return Segmented(path, mpp, folder / "nuclei.parquet", looked, scale)

    def _open(self, found: Segmented) -> Slide:
        return open_slide(found.slide, mpp=found.mpp)


def _models(records: Iterable[SegmentedRecord]) -> list[str]:
    return sorted({record.settings.model.name for record in records})


def _draw(nuclei: Nuclei, window: Window, scale: Scale) -> npt.NDArray[np.int32]:
    """1 … n on the pixels of ``window`` whose centres lie inside the n nuclei, which are in level-0 coordinates."""
    on_lattice = Nuclei(scale.from_level0(nuclei.vertices), nuclei.offsets)
    origin = (float(window.x), float(window.y))
    return rasterize(on_lattice, np.arange(1, len(nuclei) + 1), window.shape, origin)


def _looked(found: Segmented, window: Window, scale: Scale) -> Mask:
    """Which pixels of ``window`` lie in a cell where nuclei were looked for."""
    step = scale.downsample / found.scale.downsample
    rows, columns = (
        np.clip(((np.arange(start, stop) + 0.5) * step).astype(np.int64), 0, length - 1)
        for start, stop, length in zip(
            (window.y, window.x), (window.y1, window.x1), found.looked.shape, strict=True
        )
    )
    return found.looked[np.ix_(rows, columns)]
