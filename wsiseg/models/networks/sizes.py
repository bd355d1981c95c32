"""Sizes that a network accepts, and those that it needs."""

from __future__ import annotations

from typing import Protocol


class Shaped(Protocol):
    """A network's configuration, as far as sizes go."""

    @property
    def stride_px(self) -> int: ...
    def output_shape(self, height: int, width: int) -> tuple[int, int]: ...


def require_multiple(height: int, width: int, stride: int, extra: int = 0) -> None:
    """Refuse images whose sides are not a positive multiple of ``stride`` plus ``extra``.

    Raises
    ------
    ValueError
    """
    for side in (height, width):
        if (side - extra) % stride or side - extra < stride:
            wanted = f"{stride}·k" + (f" + {extra}" if extra else "")
            raise ValueError(f"image of {height} × {width}: sides must be {wanted}, k ≥ 1")


def input_side(config: Shaped, side: int) -> tuple[int, int]:
    """The least side of an image whose maps have at least ``side`` pixels, and what they lack on each side of it.

    Examples
    --------
    HoVer-Net in the mode "fast", whose maps lack 46 pixels of sides 8·k: (256, 46) for 164, and for 160 as well.
    """
    for candidate in range(side, side + _FARTHEST_PX):
        try:
            found, _ = config.output_shape(candidate, candidate)
        except ValueError:
            continue
        if found >= side:
            return candidate, (candidate - found) // 2
    raise ValueError(f"no image of up to {side + _FARTHEST_PX} pixels a side gives maps of {side}")


_FARTHEST_PX = 4096
