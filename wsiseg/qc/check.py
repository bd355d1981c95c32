"""The judgement of a slide's patches, in pieces that can be judged anywhere and in any order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsiseg.core.geometry import Box, Lattice, Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize
from wsiseg.errors import ReadError
from wsiseg.qc.agreement import FEATURES, Constants, Limits, calibrate, measure_patch, reason
from wsiseg.qc.evidence import COLUMNS, EVIDENCE, measure_evidence
from wsiseg.qc.judge import JUDGEMENT, load_judge
from wsiseg.qc.opinion import KINDS, OPINION, Opinion, compare, look_again
from wsiseg.qc.patches import Patches
from wsiseg.qc.rubric import BAD

if TYPE_CHECKING:
    from wsiseg.slide import Slide
    from wsiseg.tissue import Tissue

CHECK_MPP = 1.0
"""Microns per pixel that patches are assessed at: enough for nuclei as wholes, a sixteenth of the pixels at 40x."""

GROSS = ("lost", "artefact")
"""Reasons that need no judge."""
NAMED = (*GROSS, "blurred")
"""Reasons that go before what a judge finds: they are of the image."""

_CALIBRATION_PATCHES = 32
_CLEAR = 0.15  # share of what is covered, from which on a kind of whole nuclei names a patch
_MEASURED = (*FEATURES, *EVIDENCE, *OPINION)


@dataclass(frozen=True)
class _View:
    """A patch as it is assessed."""

    image: npt.NDArray[np.uint8]
    window: Window
    lattice: Lattice
    lost: float


def assess_patches(
    slide: Slide,
    patches: Patches,
    nuclei_in: Callable[[Box], Nuclei],
    tissue: Tissue,
    constants: Constants,
    indices: Sequence[int] | npt.NDArray[np.integer] | None = None,
    *,
    opinions: Mapping[int, Opinion] | None = None,
    limits: Limits | None = None,
    lost: Sequence[Box] = (),
) -> dict[str, npt.NDArray[np.generic]]:
    """The verdict on every patch, or on the patches at ``indices``: patches are independent of one another.

    Parameters
    ----------
    slide : Slide
    patches : Patches
    nuclei_in : callable
        The slide's nuclei whose bounds overlap a box, in level-0 coordinates.
    tissue : Tissue
        What the slide was segmented with; outside its mask and region nothing is expected.
    constants : Constants
        From :func:`calibrate_slide`; the same for all calls about a slide.
    opinions : mapping of int to Opinion, optional
        Second opinions by the number of their patch; of one without the judge has the other evidence alone.
    lost : sequence of Box
        Disjoint areas without nuclei because they could not be segmented, level 0. Of a patch that they make bad
        nothing is read.

    Returns
    -------
    dict of arrays (P,)
        ``index`` (int64), the columns of :class:`Patches`, the ``FEATURES``, the ``EVIDENCE``, the ``OPINION`` and
        the ``JUDGEMENT`` (float32), ``reason`` (str, "" for a good patch) and ``bad`` (bool).
    """
    limits = limits or Limits()
    chosen = np.arange(len(patches)) if indices is None else np.asarray(indices, dtype=np.int64)
    measured, given = {}, opinions or {}
    for block in patches.blocks(chosen):
        # Once for its patches: each row group that any of them touches is decoded whole.
        around = _around([patches.box(i) for i in block.tolist()])
        nuclei = nuclei_in(around)
        near = [area for area in lost if area.intersects(around)]
        for i in block.tolist():
            measured[i] = _measure(slide, patches, i, nuclei, tissue, constants, limits, near, given.get(i))
    return _columns(patches, chosen, [measured[i] for i in chosen.tolist()], limits)


def lost_patches(patches: Patches, indices: Sequence[int]) -> dict[str, npt.NDArray[np.generic]]:
    """The verdict on patches that cannot be looked at, as :func:`assess_patches` gives it: lost as wholes."""
    chosen = np.asarray(indices, dtype=np.int64)
    rows = [_unseen(1.0, float(patches.artefact[i])) for i in chosen.tolist()]
    return _columns(patches, chosen, rows, Limits())


def _columns(
    patches: Patches, chosen: npt.NDArray[np.int64], rows: Sequence[dict[str, float]], limits: Limits
) -> dict[str, npt.NDArray[np.generic]]:
    columns: dict[str, npt.NDArray[np.generic]] = {"index": chosen.astype(np.int64)}
    columns |= {name: column[chosen] for name, column in patches.columns().items()}
    columns |= {name: np.array([row[name] for row in rows], dtype=np.float32) for name in _MEASURED}
    reasons = np.array([reason(row, limits) for row in rows], dtype=np.str_)
    judged = _judged(columns, reasons, limits)
    bad = judged["p_bad"] >= BAD
    # What is gross has a name. Where there was nothing to judge, what the measurements say.
    measured = np.isin(reasons, NAMED) | (np.isnan(judged["expected_aji"]) & (reasons != ""))
    named = np.where(bad, np.where(measured, reasons, _why(columns)), "")
    return {**columns, **judged, "reason": named, "bad": bad}


def _why(columns: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.str_]:
    """What speaks most against each patch's outlines: a disagreement over much as wholes, else an aspect."""
    weakest = np.array(load_judge().weakest(columns), dtype=np.str_)
    shares = np.nan_to_num(np.column_stack([columns[f"share_{kind}"] for kind in KINDS]).astype(np.float64))
    kinds = np.array(KINDS)
    wholes = shares[:, kinds != "outline"]
    plain = np.where(weakest == "disagreement", kinds[shares.argmax(axis=1)], weakest)
    return np.where(wholes.max(axis=1) >= _CLEAR, kinds[kinds != "outline"][wholes.argmax(axis=1)], plain)


def _judged(
    columns: Mapping[str, npt.NDArray[np.generic]], reasons: npt.NDArray[np.str_], limits: Limits
) -> dict[str, npt.NDArray[np.float32]]:
    """:data:`JUDGEMENT` of each patch; NaN for the AJI of what has no outlines that could be judged."""
    judged = load_judge().judge(columns)
    unseen = np.isin(reasons, GROSS)
    few = np.asarray(columns["nuclei"]) < limits.min_nuclei
    judged["p_bad"] = np.where(unseen, 1.0, np.where(few, reasons == "uncovered", judged["p_bad"]))
    for name in JUDGEMENT[:-1]:
        judged[name] = np.where(unseen | few, np.nan, judged[name])
    return {name: judged[name].astype(np.float32) for name in JUDGEMENT}


def calibrate_slide(slide: Slide, patches: Patches) -> Constants:
    """:func:`calibrate` on at most 32 patches, evenly spaced in their order; unreadable ones are left out."""
    count = min(len(patches), _CALIBRATION_PATCHES)
    chosen = np.unique(np.linspace(0, max(len(patches) - 1, 0), count).round().astype(np.int64))
    views = [_view(slide, patches.box(int(index))) for index in chosen]
    mpp = views[0].lattice.mpp if views else CHECK_MPP
    return calibrate([view.image for view in views if view.lost == 0], mpp)


def _measure(
    slide: Slide,
    patches: Patches,
    index: int,
    nuclei: Nuclei,
    tissue: Tissue,
    constants: Constants,
    limits: Limits,
    lost: Sequence[Box],
    opinion: Opinion | None,
) -> dict[str, float]:
    box = patches.box(index)
    without = [common for area in lost if not (common := area.intersection(box)).empty]
    share = min(sum(common.area for common in without) / box.area, 1.0)
    if share > limits.max_lost:
        return _unseen(share, float(patches.artefact[index]))
    view = _view(slide, box)
    near = nuclei.take(nuclei.overlapping(box))
    scale = view.lattice.scale
    outlines = replace(near, vertices=scale.from_level0(near.vertices))
    origin = (float(view.window.x), float(view.window.y))
    labels = rasterize(outlines, np.arange(1, len(near) + 1), view.window.shape, origin)
    wanted = tissue.contains_pixels(view.window, scale)
    for common in without:
        wanted[scale.window(common).intersection(view.window).within(view.window)] = False
    columns = {name: near.columns[name] for name in COLUMNS if name in near.columns}
    seen = look_again(slide, box, near, tissue, opinion, without) if opinion else None
    return {
        **(compare(seen) if seen else dict.fromkeys(OPINION, np.nan)),
        **measure_evidence(view.image, labels, wanted, columns, len(near), view.lattice.mpp),
        **measure_patch(
            view.image,
            labels,
            wanted,
            constants,
            view.lattice.mpp,
            lost=max(view.lost, share),
            artefact=float(patches.artefact[index]),
            limits=limits,
        ),
    }


def _unseen(lost: float, artefact: float) -> dict[str, float]:
    """The measurements of a patch of which nothing can be measured."""
    return {**dict.fromkeys(_MEASURED, np.nan), "lost": lost, "artefact": artefact}


def _around(boxes: Sequence[Box]) -> Box:
    return Box(
        min(box.x0 for box in boxes),
        min(box.y0 for box in boxes),
        max(box.x1 for box in boxes),
        max(box.y1 for box in boxes),
    )


def _view(slide: Slide, box: Box) -> _View:
    scale = slide.scale(max(CHECK_MPP, slide.require_mpp().value))
    lattice, window = slide.lattice(scale), scale.window(box)
    try:
        image, lost = slide.read_lossy(window, scale)
    except ReadError:
        return _View(np.full((*window.shape, 3), 255, dtype=np.uint8), window, lattice, 1.0)
    area = sum(part.box.intersection(box).area for part in lost)
    return _View(image, window, lattice, min(area / box.area, 1.0))
