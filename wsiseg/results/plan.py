"""A slide's plan (``plan.json``): what all its tiles share, decided once, read by every task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wsiseg.core.geometry import Scale
from wsiseg.core.grid import TileGrid
from wsiseg.core.sealed import read_sealed_json, write_sealed_json
from wsiseg.core.typed import Misfit, as_plain, as_typed
from wsiseg.errors import SlideError
from wsiseg.results.folder import WorkFolder
from wsiseg.results.stages import LETHAL, LethalPlaces
from wsiseg.results.tissuefile import save_tissue
from wsiseg.slide import Slide, SlideSource
from wsiseg.slide.lethal import Lethal
from wsiseg.tissue import Tissue

PLAN = "plan.json"
TISSUE = "tissue.npz"
WHOLE = "whole.npz"
"""The tissue of the whole slide, where less or more of it than that is segmented."""
_BATCH_PX = 2048 * 2048
"""Core pixels of a batch: a second or more of computing, against two milliseconds of scheduling."""


@dataclass(frozen=True)
class SlidePlan:
    """All that the tiles of one slide share; JSON on disk but for ``source`` (``plan.json``), the tissue beside."""

    source: SlideSource
    mpp: float
    downsample: float
    grid: TileGrid
    band_px: float
    calibration: Mapping[str, float]
    tiles: tuple[int, ...]
    key: str
    fingerprint: str
    specification: Mapping[str, Any]
    tissue_mm2: float
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def scale(self) -> Scale:
        return Scale(self.downsample)

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the types that the model gives to nuclei; () for none."""
        return tuple(self.specification["model"].get("types", ()))

    @property
    def batches(self) -> list[tuple[int, ...]]:
        """The tiles in groups of consecutive ones, each the work of one task."""
        size = max(1, _BATCH_PX // self.grid.tile**2)
        return [self.tiles[i : i + size] for i in range(0, len(self.tiles), size)]

    def open(self) -> Slide:
        return self.source.open()

    def changed(self) -> SlideError:
        """The error of a slide that is not the one that was planned any more."""
        return SlideError(f"{self.source.path} was changed during the run. Run the same command again.")


def read_plan(work: WorkFolder) -> SlidePlan | None:
    """The plan in ``work``; None where there is none, or one that is damaged or of another version."""
    value = read_sealed_json(work.path / PLAN)
    if value is None:
        return None
    try:
        return as_typed({**value, "source": as_plain(work.source)}, SlidePlan)
    except Misfit:
        return None


def write_plan(
    work: WorkFolder, plan: SlidePlan, tissue: Tissue, whole: Tissue, lethal: Iterable[Lethal] = ()
) -> None:
    """Begin an attempt: the tissue and what is known to kill, then the plan, which makes the attempt one.

    ``whole``: the whole slide's tissue, whatever region of it is segmented.
    """
    work.create()
    save_tissue(work.path / TISSUE, tissue)
    if whole is not tissue:
        save_tissue(work.path / WHOLE, whole)
    note_lethal(work, lethal)
    write_sealed_json(work.path / PLAN, {k: v for k, v in asdict(plan).items() if k != "source"})


def require_plan(work: WorkFolder) -> SlidePlan:
    """The plan in ``work``.

    Raises
    ------
    SlideError
        It is gone.
    """
    plan = read_plan(work)
    if plan is None:
        raise SlideError(f"{work.path} was removed during the run. Run the same command again.")
    return plan


def read_lethal(work: WorkFolder) -> tuple[Lethal, ...]:
    """The stored tiles that have killed a worker of this slide; every task reads around them."""
    return noted.places if (noted := work.stage(LETHAL, LethalPlaces)) else ()


def note_lethal(work: WorkFolder, found: Iterable[Lethal]) -> None:
    """Add to them."""
    places = tuple(dict.fromkeys([*read_lethal(work), *found]))
    if places:
        work.finish_stage(LETHAL, LethalPlaces(places))
