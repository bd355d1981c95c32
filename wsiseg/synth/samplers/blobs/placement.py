"""Greedy placement: at a likely free place the first nucleus that fits; others keep off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def place_blobs(
    rng: np.random.Generator,
    prior: FloatArray,
    blobs: Callable[[], Mask | None],
    spacing: Callable[[], float],
    count: int,
    *,
    tries: int,
    misses: int,
    top: float = 0.0,
    centres: bool = False,
) -> npt.NDArray[np.int32]:
    """Lay out up to ``count`` nuclei.

    Parameters
    ----------
    rng : numpy.random.Generator
    prior : float64 array (h, w)
        How likely a nucleus is, 0–1; where it is 0 there is none.
    blobs : function
        Gives another mask each time, or None where it has none to give.
    spacing : function
        Gives the radius in pixels around a nucleus' centre that others keep off.
    count, tries, misses : int
        Nuclei at most; blobs tried at a place; places at which none fitted that are passed over. After one more
        it ends.
    top : float
        0: a place is drawn in proportion to what is left of the prior. Else uniformly from this highest part of the
        places that are left.
    centres : bool
        Whether only the centres of others keep off, and not all their pixels.

    Returns
    -------
    int32 array (h, w)
        Labels 1 … n.
    """
    labels = np.zeros(prior.shape, dtype=np.int32)
    left = np.where(prior > 0, prior, 0.0)
    open_places = prior > 0
    placed = missed = 0
    while placed < count and missed <= misses:
        place = _draw_place(rng, left, top)
        if place is None:
            break
        blob = _first_fit(open_places, blobs, place, tries)
        if blob is None:
            left[place] = 0.0
            missed += 1
            continue
        placed += 1
        window = _window(blob, place)
        labels[window][blob] = placed
        around = disc(prior.shape, place, spacing())
        open_places[window] &= ~blob
        if not centres:
            open_places &= ~around
        left[around | ~open_places] = 0.0
    return labels


def disc(shape: tuple[int, ...], centre: tuple[int, int], radius: float) -> Mask:
    """Pixels (h, w) of ``shape`` whose centres lie within ``radius`` of that of the pixel ``centre``."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.square(y - centre[0]) + np.square(x - centre[1]) <= radius * radius


def _draw_place(rng: np.random.Generator, left: FloatArray, top: float) -> tuple[int, int] | None:
    flat = left.ravel()
    free = np.flatnonzero(flat > 0)
    if not len(free):
        return None
    if top > 0:
        kept = max(round(top * len(free)), 1)
        best = free[np.argsort(-flat[free], kind="stable")[:kept]]
        chosen = int(best[rng.integers(kept)])
    else:
        total = np.cumsum(flat)
        chosen = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        chosen = min(chosen, int(free[-1]))
    row, column = divmod(chosen, left.shape[1])
    return row, column


def _first_fit(
    open_places: Mask, blobs: Callable[[], Mask | None], place: tuple[int, int], tries: int
) -> Mask | None:
    for _ in range(tries):
        blob = blobs()
        if blob is None:
            continue
        rows, columns = _window(blob, place)
        inside = rows.start >= 0 and columns.start >= 0
        inside = inside and rows.stop <= open_places.shape[0] and columns.stop <= open_places.shape[1]
        if inside and open_places[rows, columns][blob].all():
            return blob
    return None


def _window(blob: Mask, place: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a blob whose bounds' middle is at ``place``."""
    row, column = place[0] - blob.shape[0] // 2, place[1] - blob.shape[1] // 2
    return slice(row, row + blob.shape[0]), slice(column, column + blob.shape[1])
