"""Which model ``auto`` is for a slide: a function of facts that can be said in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

from wsiseg.models.files import JOINT
from wsiseg.models.registry import AUTO, DEFAULT_MODEL

ACCURATE, FAST = f"unet-0.25{JOINT}{DEFAULT_MODEL}", DEFAULT_MODEL
COARSEST_UM = 0.35
"""Microns per pixel above which ``ACCURATE`` would see enlarged pixels, which tell it nothing more."""


@dataclass(frozen=True)
class Pick:
    """A model for a slide, and why it is that one."""

    model: str
    why: str

    @property
    def note(self) -> str:
        """What console and record say of it."""
        return f"--model {AUTO} takes {self.model}: {self.why}."


def pick_model(mpp: float, device: str) -> Pick:
    """The model for a slide.

    Parameters
    ----------
    mpp : float
        Microns per pixel of the slide.
    device : {"cpu", "cuda"}
        What computes.

    Returns
    -------
    Pick
        ``ACCURATE`` on a GPU where the slide's pixels are no coarser than ``COARSEST_UM``, else ``FAST``.
    """
    scale = f"the slide has {mpp:.3g} µm a pixel"
    if mpp > COARSEST_UM:
        return Pick(FAST, f"{scale}, more than the {COARSEST_UM:g} from which {ACCURATE} gains nothing")
    if device == "cuda":
        return Pick(ACCURATE, f"{scale}, and a GPU computes")
    return Pick(FAST, f"no GPU computes, without which {ACCURATE} takes five times as long")


def device_kind(device: str, precision: str, engine: str) -> str:
    """``cpu`` or ``cuda``: what a network of such a choice runs on in this process.

    Raises
    ------
    UsageError
        As :func:`wsiseg.models.engine.engine.place`.
    """
    from wsiseg.models.engine.engine import place  # torch takes a second to import

    return place(device, precision, engine).device.partition(":")[0]
