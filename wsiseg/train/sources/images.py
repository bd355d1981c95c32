"""``kind = "images"``: images or slides without labels, for pseudo-labels and semi-supervised rounds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.core.geometry import Window
from wsiseg.core.names import stem
from wsiseg.core.select import ALL, Select
from wsiseg.errors import UsageError
from wsiseg.slide import Slide, open_slide
from wsiseg.slide.discover import find_slides
from wsiseg.tissue import find_tissue
from wsiseg.train.patches import PatchPool
from wsiseg.train.source import Frame
from wsiseg.train.sources import cut
from wsiseg.train.sources.estimated import corrected_mpp
from wsiseg.train.sources.slides import apportion, draw_places, nothing_known, read_patch


@dataclass(frozen=True)
class ImagesSource:
    """Unlabelled patches: no nuclei, and ``UNKNOWN`` everywhere.

    Attributes
    ----------
    data : Path
        A slide or image, or a folder that is searched for them.
    mpp : float or None
        Microns per pixel of all of them; by default what their metadata say.
    mpp_table : str
        CSV in ``data`` with the columns slide and mpp.
    estimated : bool
        The microns per pixel are estimates: those of each image are corrected by what the default network finds
        around them (:mod:`wsiseg.train.sources.estimated`).
    count : int or None
        Patches drawn where there is tissue, from each slide in proportion to its tissue. None: all patches of a
        grid over each image, for images that are patches themselves.
    seed : int
        Decides what is drawn.
    select : Select
        Which files, in the order of their names.
    overlap : float
        Of the grid: least share of a patch's side that the next one covers again, 0 to below 1.
    licence : str
        Of the images, for the model card.
    """

    data: Path
    mpp: float | None = None
    mpp_table: str = ""
    estimated: bool = False
    count: int | None = None
    seed: int = 0
    select: Select = ALL
    overlap: float = 0.0
    licence: str = "unknown"

    def __post_init__(self) -> None:
        cut.check_overlap(self.overlap)
        if self.mpp is not None and self.mpp_table:
            raise ValueError("mpp and mpp_table are given; expected one of them, or none")
        if (self.count is not None and self.count < 1) or self.seed < 0:
            raise ValueError(f"count {self.count}, seed {self.seed}: expected at least 1 and 0")

    def describe(self, frame: Frame) -> dict[str, Any]:
        total = hashlib.sha256()
        for name, path in self._files().items():
            with self._open(path) as slide:
                total.update(f"{name} {slide.fingerprint()} {slide.require_mpp().value!r}\n".encode())
        return {
            "kind": "images",
            "revision": cut.REVISION,
            "content": total.hexdigest(),
            "draw": None if self.count is None else [self.count, self.seed],
            "overlap": self.overlap,
            "patch": {"mpp": frame.mpp, "side": frame.side},
        }

    def statements(self) -> tuple[str, ...]:
        return (f"{len(self._files())} unlabelled images of {self.data.name}, licence: {self.licence}",)

    def parts(self, frame: Frame, first: int) -> Iterator[PatchPool]:
        found = self._files()
        places, side = self._grid(found, frame) if self.count is None else self._drawn(found, frame, self.count)
        return cut.joined(self._patches(found, places[first:], side, frame.mpp))

    def _patches(
        self, found: dict[str, Path], places: list[cut.Place], side: tuple[int, int], mpp: float
    ) -> Iterator[PatchPool]:
        for name, group in groupby(places, key=lambda place: place.name):
            with self._open(found[name]) as slide:
                scale = slide.scale(mpp)
                for place in group:
                    pixels, known = read_patch(slide, Window(place.x, place.y, side[1], side[0]), scale)
                    empty = np.zeros(side, dtype=np.int16)
                    covered = np.zeros(side, dtype=np.uint8)
                    yield PatchPool.of(pixels[None], empty[None], covered[None], nothing_known(known)[None])

    def _grid(self, found: dict[str, Path], frame: Frame) -> tuple[list[cut.Place], tuple[int, int]]:
        sizes = {}
        for name, path in found.items():
            with self._open(path) as slide:
                width, height = slide.scale(frame.mpp).size(slide.width, slide.height)
                sizes[name] = (height, width)
        side = cut.common_side(list(sizes.values()), frame.side)
        return [p for name, size in sizes.items() for p in cut.places(name, size, side, self.overlap)], side

    def _drawn(self, found: dict[str, Path], frame: Frame, total: int) -> tuple[list[cut.Place], tuple[int, int]]:
        tissues, areas = {}, []
        for name, path in found.items():
            with self._open(path) as slide:
                tissue = find_tissue(slide)
                scale = slide.scale(frame.mpp)
                width, height = scale.size(slide.width, slide.height)
                tissues[name] = (tissue.core, tissue.scale, (height, width), scale)
                areas.append(tissue.area_mm2(slide.require_mpp().value))
        if not sum(areas):
            raise UsageError(f"{self.data}: no tissue in {len(found)} images to draw patches from")
        places = []
        for n, (name, count) in enumerate(zip(tissues, apportion(total, areas), strict=True)):
            if count:
                rng = np.random.default_rng([self.seed, n])
                places += draw_places(rng, name, *tissues[name], frame.side, count)
        return places, (frame.side, frame.side)

    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in find_slides([str(self.data)]):
            inner = path.relative_to(self.data) if path.is_relative_to(self.data) and path != self.data else None
            name = stem((inner or Path(path.name)).as_posix())
            if name in found:
                raise UsageError(f"{found[name]} and {path} have the same name {name!r}: keep one of them")
            found[name] = path
        return self.select.named(dict(sorted(found.items())), self.data)

    def _open(self, path: Path) -> Slide:
        slide = open_slide(path, mpp=self.mpp, mpp_table=self.data / self.mpp_table if self.mpp_table else None)
        if not self.estimated:
            return slide
        with slide:
            said = slide.require_mpp().value
        return open_slide(path, mpp=corrected_mpp(path, said))
