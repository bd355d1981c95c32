"""A second opinion: what the default network finds where outlines are judged, and how far the two agree.

It sees the patch's middle turned and 1.2 times smaller than it is used to. Where outlines are right, whoever made
them, a network finds the same ones in any such view; where they are wrong, or the image is beyond it, it does not.
So the agreement ranks outlines by their true AJI, those of the same network included, and each disagreement has a
place and a kind. Agreement under such changes as a measure of quality: Valindria et al. 2017,
doi:10.1109/TMI.2017.2665165 (of classifiers of one image); of views, Wang et al. 2019,
doi:10.1016/j.neucom.2019.01.103.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Box, FloatArray, Window
from wsiseg.core.nuclei import BoolArray, IntArray, Nuclei
from wsiseg.core.overlap import Overlap, aji, best_pairs, label_overlap
from wsiseg.core.raster import rasterize
from wsiseg.errors import SlideError
from wsiseg.models.base import Segmenter
from wsiseg.models.engine.threads import one_thread
from wsiseg.models.registry import DEFAULT_MODEL
from wsiseg.models.resident import ModelChoice
from wsiseg.slide import Slide
from wsiseg.tissue import Tissue

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

_OF_OPINION = ("missed", "split")  # the kinds whose objects are the opinion's
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
    with one_thread():  # the same opinion, whatever the executor lets the segmenter have
        (found,) = segmenter.segment([np.ascontiguousarray(whole.transpose(1, 0, 2))], {})
    origin = (float(window.y - read.y + around[0][0]), float(window.x - read.x + around[1][0]))
    turned = rasterize(found, np.arange(1, len(found) + 1), (window.width, window.height), origin)
    return np.ascontiguousarray(turned.T), np.asarray(found.columns["score"], np.float32)


@dataclass(frozen=True)
class Opinion:
    """What the network finds in the middle of a patch.

    Attributes
    ----------
    labels : int32 array (h, w)
        Of the :func:`seen_window` at :data:`OPINION_MPP`, 0 is none.
    score : float32 array (N,)
        Of the nuclei 1 … N.
    lost : tuple of Box
        What could not be read, level 0.
    """

    labels: Labels
    score: npt.NDArray[np.float32]
    lost: tuple[Box, ...]


@dataclass(frozen=True)
class Seen:
    """A window of a slide with the outlines that are judged and the opinion on it.

    Attributes
    ----------
    box : Box
        The window in level-0 pixels.
    labels, opinion : int32 array (h, w)
        The outlines and the opinion at :data:`OPINION_MPP`, 0 is none; both cut at the window.
    score : float32 array (N,)
        Of the opinion's nuclei 1 … N.
    wanted : bool array (h, w)
        Where nuclei were looked for; what lies elsewhere does not count.
    """

    box: Box
    labels: Labels
    opinion: Labels
    score: npt.NDArray[np.float32]
    wanted: BoolImage


def opinion_on(slide: Slide, patch: Box, segmenter: Segmenter) -> Opinion | None:
    """The opinion on a patch, in level-0 pixels; None where the slide is too coarse.

    ``segmenter`` is that of :func:`opinion_choice`.

    Raises
    ------
    ReadError
        It cannot be read.
    """
    try:
        scale = slide.scale(OPINION_MPP)
    except SlideError:
        return None
    window = seen_window(scale.window(patch))
    whole = Window(0, 0, *slide.lattice(scale).whole)
    read = window.pad(round(MARGIN_UM / OPINION_MPP)).intersection(whole)
    image, lost = slide.read_lossy(read, scale)
    labels, score = second_opinion(segmenter, image, read, window)
    return Opinion(labels, score, tuple(part.box for part in lost))


def look_again(
    slide: Slide, patch: Box, nuclei: Nuclei, tissue: Tissue, opinion: Opinion, without: Sequence[Box] = ()
) -> Seen:
    """The middle of a patch as outlined and as seen by the network.

    Parameters
    ----------
    slide : Slide
    patch : Box
        Level 0.
    nuclei : Nuclei
        Those near the patch, level 0.
    tissue : Tissue
    opinion : Opinion
        That on the patch.
    without : sequence of Box
        Areas where nothing was looked for, level 0.
    """
    scale = slide.scale(OPINION_MPP)
    window = seen_window(scale.window(patch))
    outlines = Nuclei(scale.from_level0(nuclei.vertices), nuclei.offsets)
    labels = rasterize(outlines, np.arange(1, len(nuclei) + 1), window.shape, (float(window.x), float(window.y)))
    wanted = tissue.contains_pixels(window, scale)
    for area in (*without, *opinion.lost):
        hole = scale.window(area).intersection(window)
        if hole.area:
            wanted[hole.within(window)] = False
    return Seen(scale.box(window), labels, opinion.labels, opinion.score, wanted)


def compare(seen: Seen) -> dict[str, float]:
    """The numbers of :data:`OPINION`; NaN where neither has a nucleus."""
    own, other = np.where(seen.wanted, seen.labels, 0), np.where(seen.wanted, seen.opinion, 0)
    table = label_overlap(other, own)
    covered = table.truth_area.sum() + table.pred_area.sum() - table.shared.sum()
    if covered == 0:
        return dict.fromkeys(OPINION, np.nan)
    found = _disagree(table)
    areas = {kind: _side(table, kind)[rows].sum() for kind, rows in found.whole.items()}
    areas["outline"] = (table.union[found.pairs] - table.shared[found.pairs]).sum()
    names = np.unique(other)
    names = names[names > 0]
    return {
        "agreement": aji(table),
        **{f"share_{kind}": float(min(areas[kind] / covered, 1.0)) for kind in KINDS},
        "opinion_score": float(seen.score[names - 1].mean()) if len(names) else np.nan,
    }


def error_map(labels: Labels, opinion: Labels, wanted: BoolImage) -> npt.NDArray[np.uint8]:
    """Where and of which kind the two disagree.

    Parameters
    ----------
    labels, opinion : int32 array (h, w)
    wanted : bool array (h, w)
        As of :class:`Seen`. With a truth in the opinion's place it is the map of the true errors.

    Returns
    -------
    uint8 array (h, w)
        0 where they agree, else the place in :data:`KINDS`, from 1.
    """
    own, other = np.where(wanted, labels, 0), np.where(wanted, opinion, 0)
    table = label_overlap(other, own)
    found = _disagree(table)
    sides = {"truth": np.unique(other), "pred": np.unique(own)}
    sides = {side: names[names > 0] for side, names in sides.items()}
    partner = np.zeros(int(other.max(initial=0)) + 1, dtype=np.int32)
    partner[sides["truth"][table.truth[found.pairs]]] = sides["pred"][table.pred[found.pairs]]
    either = (own > 0) | (other > 0)
    kinds = np.where(either & ~((own > 0) & (partner[other] == own)), KINDS.index("outline") + 1, 0)
    for kind, rows in found.whole.items():
        image, side = (other, "truth") if kind in _OF_OPINION else (own, "pred")
        kinds[np.isin(image, sides[side][rows])] = KINDS.index(kind) + 1
    return kinds.astype(np.uint8)


@dataclass(frozen=True)
class _Disagreements:
    """Which objects differ as wholes, bool over those of the side that the kind is about; and the pairs left."""

    whole: dict[str, BoolArray]
    pairs: IntArray


def _disagree(table: Overlap) -> _Disagreements:
    """``truth`` of the table is the opinion."""
    of_other = table.shared / table.truth_area[table.truth]
    of_own = table.shared / table.pred_area[table.pred]
    missed = np.bincount(table.truth, of_other, len(table.truth_area)) < _ALONE
    false = np.bincount(table.pred, of_own, len(table.pred_area)) < _ALONE
    merged = (np.bincount(table.pred[of_other > _HELD], minlength=len(false)) > 1) & ~false
    split = (np.bincount(table.truth[of_own > _HELD], minlength=len(missed)) > 1) & ~missed
    pairs = best_pairs(table.truth, table.pred, table.iou)
    pairs = pairs[~(missed | split)[table.truth[pairs]] & ~(false | merged)[table.pred[pairs]]]
    return _Disagreements({"merged": merged, "split": split, "false": false, "missed": missed}, pairs)


def _side(table: Overlap, kind: str) -> FloatArray:
    """Areas of the objects that a kind is about."""
    return table.truth_area if kind in _OF_OPINION else table.pred_area
