"""The kinds of artefacts: their stable names, their bits, and what each means for the tissue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "pen": "pen marks",
        "dark": "black ink, dark debris and pigment",
        "edge": "edges of coverslips and of air bubbles",
        "fold": "tissue folds",
        "out_of_focus": "out of focus",
        "acellular": "blood, keratin and other dense eosin without nuclei",
        "understained": "too pale",
        "overstained": "too dark",
    }
)
"""Name → words. The place is the bit: ``pen`` is 1, ``dark`` 2, … New kinds are added at the end."""

SPOILING = ("pen", "dark", "edge", "fold", "out_of_focus")
"""What leaves tissue unusable. That nothing is to be segmented is no fault, and a bad stain may still be read."""

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "pen": (0, 158, 115),
        "dark": (0, 0, 0),
        "edge": (0, 114, 178),
        "fold": (213, 94, 0),
        "out_of_focus": (86, 180, 233),
        "acellular": (240, 228, 66),
        "understained": (150, 150, 150),
        "overstained": (90, 40, 110),
    }
)
"""Most are Okabe and Ito's, which most colour-blind people tell apart."""


def bit(name: str) -> int:
    """The value of a kind in a map."""
    return 1 << list(KINDS).index(name)


def bits(names: Iterable[str]) -> int:
    """The values of several kinds together."""
    return sum(bit(name) for name in names)


def names_of(value: int) -> tuple[str, ...]:
    """The kinds that a value of a map holds, in their order."""
    return tuple(name for name in KINDS if value & bit(name))
