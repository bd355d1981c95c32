"""What the tasks of a slide share once it is planned: the plan, the tissue and the slide, found once a process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from wsiseg.errors import SlideError
from wsiseg.results.folder import WorkFolder
from wsiseg.results.plan import PLAN, TISSUE, WHOLE, SlidePlan, note_lethal, read_lethal, require_plan
from wsiseg.results.tissuefile import load_tissue
from wsiseg.slide import Slide
from wsiseg.slide.held import Held, Identity, identity
from wsiseg.tissue import Tissue


def read_planned(work: WorkFolder) -> tuple[SlidePlan, Tissue]:
    """What was planned for a slide.

    Raises
    ------
    SlideError
        It is gone, or damaged.
    """
    try:
        key = (work, identity(work.path / PLAN))
    except OSError as error:
        raise SlideError(f"{work.path} was removed during the run. Run the same command again.") from error
    return _PLANS.get(key, lambda: (require_plan(work), load_tissue(work.path / TISSUE)))


def read_whole(work: WorkFolder) -> Tissue:
    """The tissue of the whole slide, whatever region of it is segmented.

    Raises
    ------
    SlideError
        It is gone, or damaged.
    """
    _, tissue = read_planned(work)
    return load_tissue(work.path / WHOLE) if (work.path / WHOLE).exists() else tissue


@contextlib.contextmanager
def open_planned(work: WorkFolder, plan: SlidePlan, *, guarded: bool = False) -> Iterator[Slide]:
    """The slide of a plan, read around the stored tiles that are known to kill who reads them.

    ``guarded`` finds such tiles and notes them in the work folder, for the tasks after this one. The content is
    checked when a process first meets the file, and again if it has changed when the block ends.

    Raises
    ------
    SlideError
        The slide is not the one that was planned any more.
    """
    seen = _checked(plan)
    with plan.source.open(read_lethal(work), guarded=guarded) as slide:
        try:
            yield slide
        finally:
            if guarded:
                note_lethal(work, slide.lethal)
    if _identity(plan) != seen:
        _checked(plan)  # merely touched, or copied back, it is still the one that was planned


def _checked(plan: SlidePlan) -> Identity:
    """What identifies the slide's file, whose content is the one that was planned."""
    found = _identity(plan)
    if _FINGERPRINTS.get((plan.source.path, found), lambda: plan.open().fingerprint()) != plan.fingerprint:
        raise plan.changed()
    return found


def _identity(plan: SlidePlan) -> Identity:
    path = plan.source.local
    try:
        return identity(path)
    except OSError as error:
        cause = error.strerror
        raise SlideError(f"{path} was lost during the run: {cause}. Run the command again with it.") from error


def _tissue_bytes(planned: tuple[SlidePlan, Tissue]) -> int:
    tissue = planned[1]
    return tissue.mask.nbytes + tissue.core.nbytes + tissue.artefact.nbytes


_PLANS: Held[tuple[SlidePlan, Tissue]] = Held(8, 256 << 20, _tissue_bytes)
_FINGERPRINTS: Held[str] = Held(64, 1, lambda fingerprint: 0)
