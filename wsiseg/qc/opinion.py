"""A second opinion: what the default network finds where outlines are judged, and how far the two agree.

It sees the patch's middle turned and 1.2 times smaller than it is used to. Where outlines are right, whoever made
them, a network finds the same ones in any such view; where they are wrong, or the image is beyond it, it does not.
So the agreement ranks outlines by their true AJI, those of the same network included, and each disagreement has a
place and a kind. Agreement under such changes as a measure of quality: Valindria et al. 2017,
doi:10.1109/TMI.2017.2665165 (of classifiers of one image); of views, Wang et al. 2019,
doi:10.1016/j.neucom.2019.01.103.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Window
from wsiseg.core.overlap import Overlap, aji, best_pairs, label_overlap
from wsiseg.core.raster import rasterize
from wsiseg.models.base import Segmenter
from wsiseg.models.registry import DEFAULT_MODEL
from wsiseg.models.resident import ModelChoice

Labels = npt.NDArray[np.int32]
BoolImage = npt.NDArray[np.bool_]

OPINION_MPP = 0.6
"""Microns per pixel of the view: of 0.42, 0.55, 0.6, 0.7, 0.8 and 1 the one that ranks patches best."""
WINDOW_UM = 128.0
"""Side of the middle of a patch that is looked at."""
MARGIN_UM = 19.2
"""What the network sees around it."""

KINDS = ("missed", "false", "merged", "split", "outline")
"""Kinds of disagreement: nothing is outlined there; nothing is there; one outline over several nuclei; one nucleus
in several outlines; and edges that differ."""
OPINION = ("agreement", *(f"share_{kind}" for kind in KINDS), "opinion_score")
"""What comes of an opinion: the AJI of the outlines against it, the share of each kind in all that either covers,
and the mean score of the opinion's own nuclei."""

_ALONE = 0.25  # covered to less than this, a nucleus has no counterpart
_HELD = 0.5  # more than this of a nucleus lies in an outline that holds it


def opinion_choice(device: str, threads: int | None) -> ModelChoice:
    """The network that gives opinions: always in full precision by torch, so that no machine has one of its own."""
    return ModelChoice(DEFAULT_MODEL, device, "fp32", threads, "torch")


def seen_window(patch: Window) -> Window:
    """The middle of a patch that is looked at, in lattice pixels of about :data:`OPINION_MPP`."""
    side = round(WINDOW_UM / OPINION_MPP)
    width, height = min(side, patch.width), min(side, patch.height)
    return Window(patch.x + (patch.width - width) // 2, patch.y + (patch.height - height) // 2, width, height)


def second_opinion(
    segmenter: Segmenter, image: npt.NDArray[np.uint8], read: Window, window: Window
) -> tuple[Labels, npt.NDArray[np.float32]]:
    """What the network finds in a window: labels (window.height, window.width), and the score of each nucleus.

    Parameters
    ----------
    image : uint8 array (h, w, 3)
        The lattice pixels of ``read``, at :data:`OPINION_MPP`; as far as they are there it is continued to
        :data:`MARGIN_UM` around the window by mirroring, as tiles are beyond the slide.
    read, window : Window
    """
    margin, stride = round(MARGIN_UM / OPINION_MPP), segmenter.stride_px
    around = []
    for low, high, start, end in (
        (read.y, read.y1, window.y, window.y1), (read.x, read.x1, window.x, window.x1),
    ):  # fmt: skip
        before = max(0, low - (start - margin))
        after = max(0, end + margin - high)
        around.append((before, after + -(before + high - low + after) % stride))
    whole = np.pad(image, (*around, (0, 0)), mode="symmetric")
    (found,) = segmenter.segment([np.ascontiguousarray(whole.transpose(1, 0, 2))], {})
    origin = (float(window.y - read.y + around[0][0]), float(window.x - read.x + around[1][0]))
    turned = rasterize(found, np.arange(1, len(found) + 1), (window.width, window.height), origin)
    return np.ascontiguousarray(turned.T), np.asarray(found.columns["score"], np.float32)


def compare(labels: Labels, opinion: Labels, score: npt.NDArray[np.float32], wanted: BoolImage) -> dict[str, float]:
    """The numbers of :data:`OPINION`.

    Parameters
    ----------
    labels, opinion : int32 array (h, w)
        The outlines and the opinion, 0 is none; both cut at the window.
    score : float32 array (N,)
        Of the opinion's nuclei 1 … N.
    wanted : bool array (h, w)
        Where nuclei were looked for; what lies elsewhere does not count.

    Returns
    -------
    dict
        NaN where neither has a nucleus.
    """
    own, other = np.where(wanted, labels, 0), np.where(wanted, opinion, 0)
    table = label_overlap(other, own)
    covered = table.truth_area.sum() + table.pred_area.sum() - table.shared.sum()
    if covered == 0:
        return dict.fromkeys(OPINION, np.nan)
    areas = dict.fromkeys(KINDS, 0.0)
    for kind, area in _disagreements(table):
        areas[kind] += area
    seen = np.unique(other)
    seen = seen[seen > 0]
    return {
        "agreement": aji(table),
        **{f"share_{kind}": float(min(area / covered, 1.0)) for kind, area in areas.items()},
        "opinion_score": float(score[seen - 1].mean()) if len(seen) else np.nan,
    }


def _disagreements(table: Overlap) -> Iterator[tuple[str, float]]:
    """Kind and area of each disagreement; ``truth`` is the opinion."""
    of_other = table.shared / table.truth_area[table.truth]
    of_own = table.shared / table.pred_area[table.pred]
    other_covered = np.bincount(table.truth, of_other, len(table.truth_area))
    own_covered = np.bincount(table.pred, of_own, len(table.pred_area))
    holds = np.bincount(table.pred[of_other > _HELD], minlength=len(table.pred_area))
    held = np.bincount(table.truth[of_own > _HELD], minlength=len(table.truth_area))
    missed, false = other_covered < _ALONE, own_covered < _ALONE
    merged, split = (holds > 1) & ~false, (held > 1) & ~missed
    for kind, chosen, area in (
        ("missed", missed, table.truth_area),
        ("false", false, table.pred_area),
        ("merged", merged, table.pred_area),
        ("split", split, table.truth_area),
    ):
        yield from ((kind, size) for size in area[chosen].tolist())
    best = best_pairs(table.truth, table.pred, table.iou)
    best = best[~(missed | split)[table.truth[best]] & ~(false | merged)[table.pred[best]]]
    yield from (("outline", size) for size in (table.union[best] - table.shared[best]).tolist())
