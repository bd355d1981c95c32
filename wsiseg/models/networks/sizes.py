"""Sizes that a network accepts."""

from __future__ import annotations


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
