"""How a network of others is called, and where the maps of a head are among its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from wsiseg.models.networks.sizes import require_multiple


@dataclass(frozen=True)
class Pick:
    """Where a map of the head is among a network's outputs.

    Attributes
    ----------
    output : int or str
        Position or name of the output.
    channels : tuple of int or None
        Of that output; None: all.
    values : str
        ``logits`` or ``probabilities``, for the maps that are one or the other.
    scale : float
        Factor that makes pixels of lengths.
    types : tuple of str
        Names of the types, one for each channel of a map of types; () where they are not named.
    """

    output: int | str = 0
    channels: tuple[int, ...] | None = None
    values: str = "logits"
    scale: float = 1.0
    types: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForeignConfig:
    """Geometry and maps of a network, as :mod:`wsiseg.models.networks` describes its own.

    Attributes
    ----------
    stride_px : int
        Sides of images must be multiples of this, plus twice ``border_px``.
    border_px : int
        What the maps lack of the image on each side.
    reach_px : int
        The farthest that a pixel can have an effect: half of the receptive field.
    window_px : int or None
        Larger images are computed in windows; None: never.
    outputs : mapping of str to int
        Names and channels of the head's maps.
    """

    stride_px: int
    border_px: int
    reach_px: int
    window_px: int | None
    outputs: Mapping[str, int]

    kind: ClassVar[str] = "foreign"

    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """Size of the maps of an image of height × width; ValueError where it does not fit."""
        require_multiple(height, width, self.stride_px, 2 * self.border_px)
        return height - 2 * self.border_px, width - 2 * self.border_px


@dataclass(frozen=True)
class Interface:
    """How a network of others is called.

    Attributes
    ----------
    config : ForeignConfig
    picks : mapping of str to Pick
        By the names of the head's maps.
    mean, std : tuple of float
        Of RGB in 0 … 1: the network gets (value − mean) / std.
    """

    config: ForeignConfig
    picks: Mapping[str, Pick]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
