"""Do outlines agree with the haematoxylin? A few named measurements of a patch against a few limits.

No ground truth and no model are needed: are dark places outlined, does each outline hold something darker than
its surroundings, does the darkness end where the outline does, and is the picture sharp enough to tell? How the
limits were chosen and how often the verdict is right is in ``docs/quality.md``. This finds gross failures;
splits, merges and shifts of less than a few µm pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.core.compiled import compiled
from wsiseg.core.histogram import otsu
from wsiseg.core.stain import hematoxylin
from wsiseg.qc.surroundings import surroundings

FloatImage = npt.NDArray[np.float32]
BoolImage = npt.NDArray[np.bool_]

_SMOOTH_UM = 0.7  # chromatin texture is not the question
_SURROUND_UM = 31.0  # side of the box that local contrast is taken against: several nuclei
_RING_UM = 4.0  # width of the ring around a nucleus that it is compared with
_BLOB_UM2 = 10.0  # smaller dark spots are no nuclei
_LEAST_DARK = 0.02  # the contrast of glass has a spread of 0.004, of the palest tissue 0.02


@dataclass(frozen=True)
class Constants:
    """What dark means on this slide.

    Attributes
    ----------
    dark : float
        Local haematoxylin contrast (optical density) above which a pixel is dark.
    spread : float
        Standard deviation of the local contrast over tissue, the unit of the contrasts below.
    """

    dark: float
    spread: float


@dataclass(frozen=True)
class Limits:
    """What makes a patch bad.

    Attributes
    ----------
    max_lost : float
        Share of unreadable pixels.
    max_artefact : float
        Share of ink, coverslip edge and the like.
    min_sharpness : float
        Fine (< 1 µm) over coarse (1–4 µm) detail of the optical density.
    max_uncovered : float
        Share of the dark blobs' area that no nucleus covers; judged if the blobs are ``min_dark`` of the tissue.
    max_unsupported : float
        Share of nuclei that are less than ``min_contrast`` spreads darker than the ring around them.
    min_edge : float
        Spreads by which the outermost pixels of the nuclei are darker than the ring around them: outlines that are
        much too large have none.
    max_density : float
        Nuclei per mm² of tissue; the densest annotated lymphoid tissue has about 30,000.
    min_nuclei : int
        Fewer nuclei are not judged by their number or outlines.
    """

    max_lost: float = 0.1
    max_artefact: float = 0.25
    min_sharpness: float = 0.35
    max_uncovered: float = 0.42
    min_dark: float = 0.01
    max_unsupported: float = 0.25
    min_contrast: float = 0.5
    min_edge: float = 0.6
    max_density: float = 50_000.0
    min_nuclei: int = 5


REASONS = ("", "lost", "artefact", "blurred", "uncovered", "unsupported", "outlines", "implausible")
"""Why a patch is bad, in the order of asking; "" is a good patch."""

FEATURES = ("lost", "artefact", "sharpness", "dark", "uncovered", "unsupported", "edge", "density", "nuclei")


def calibrate(images: Sequence[npt.NDArray[np.uint8]], mpp: float) -> Constants:
    """What dark means, from patches of tissue (h, w, 3) all over the slide.

    The threshold is Otsu's on the local contrast of all patches together, but at least 0.02: without nuclei there
    is nothing dark.
    """
    edges = np.linspace(-1.0, 1.0, 1001)
    counts = np.zeros(1000, dtype=np.int64)
    for image in images:
        counts += np.histogram(np.clip(local_contrast(image, mpp), -0.999, 0.999), edges)[0]
    total = int(counts.sum())
    if total == 0:
        return Constants(_LEAST_DARK, _LEAST_DARK)
    centres = (edges[1:] + edges[:-1]) / 2
    share = counts / total
    mean = float(share @ centres)
    spread = float(np.sqrt(share @ (centres - mean) ** 2))
    return Constants(max(otsu(counts, edges), _LEAST_DARK), max(spread, _LEAST_DARK))


def local_contrast(image: npt.NDArray[np.uint8], mpp: float) -> FloatImage:
    """Haematoxylin of each pixel above the mean of its surroundings, optical density, (h, w)."""
    density = ndimage.gaussian_filter(hematoxylin(image), _SMOOTH_UM / mpp, mode="nearest", truncate=3.0)
    side = max(3, round(_SURROUND_UM / mpp) | 1)
    # Two boxes are nearly a Gaussian, at a cost that does not depend on its width.
    around = ndimage.uniform_filter(ndimage.uniform_filter(density, side, mode="nearest"), side, mode="nearest")
    return density - around


def measure_patch(
    image: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    tissue: BoolImage,
    constants: Constants,
    mpp: float,
    *,
    lost: float = 0.0,
    artefact: float = 0.0,
    limits: Limits | None = None,
) -> dict[str, float]:
    """The measurements of one patch.

    Parameters
    ----------
    image : uint8 array (h, w, 3)
        At about 1 µm per pixel.
    labels : int32 array (h, w)
        Nuclei as 1 … N; 0 is none.
    tissue : bool array (h, w)
        Where nuclei were looked for; the rest of the patch does not count.
    constants : Constants
    mpp : float
        Of ``image``.
    lost, artefact : float
        Shares of the patch, taken as they are.

    Returns
    -------
    dict
        By the names of ``FEATURES``; NaN where a feature has nothing to measure.
    """
    limits = limits or Limits()
    contrast = local_contrast(image, mpp)
    area = int(np.count_nonzero(tissue))
    blobs = _blobs((contrast > constants.dark) & tissue, _BLOB_UM2 / mpp**2)
    blob_area = int(np.count_nonzero(blobs))
    mask = labels > 0
    covered = ndimage.binary_dilation(mask)
    rings = surroundings(labels, max(2, round(_RING_UM / mpp)))
    inner, outer, edge = _contrasts(labels, contrast, rings)
    judged = np.isfinite(inner) & np.isfinite(outer)
    weak = inner[judged] - outer[judged] < limits.min_contrast * constants.spread
    steps = (edge - outer)[judged] / constants.spread
    return {
        "lost": lost,
        "artefact": artefact,
        "sharpness": sharpness(image, mpp),
        "dark": blob_area / max(area, 1),
        "uncovered": int(np.count_nonzero(blobs & ~covered)) / blob_area if blob_area else np.nan,
        "unsupported": float(weak.mean()) if len(weak) else np.nan,
        "edge": float(steps.mean()) if len(steps) else np.nan,
        "density": len(inner) / (area * mpp**2 * 1e-6) if area else np.nan,
        "nuclei": float(len(inner)),
    }


def sharpness(image: npt.NDArray[np.uint8], mpp: float) -> float:
    """Detail finer than 1 µm over detail of 1–4 µm, both standard deviations of the optical density."""
    mean = image.mean(axis=2, dtype=np.float32)
    density = -np.log10(np.maximum(mean, 1.0) / 255.0)
    fine = ndimage.gaussian_filter(density, 1.0 / mpp, mode="nearest", truncate=3.0)
    coarse = ndimage.gaussian_filter(density, 4.0 / mpp, mode="nearest", truncate=3.0)
    return float((density - fine).std() / max(float((fine - coarse).std()), 1e-6))


def reason(features: Mapping[str, float], limits: Limits | None = None) -> str:
    """Why a patch with these features is bad: one of ``REASONS``, "" if it is good."""
    limits = limits or Limits()
    enough = features["nuclei"] >= limits.min_nuclei
    asked = {
        "lost": features["lost"] > limits.max_lost,
        "artefact": features["artefact"] > limits.max_artefact,
        "blurred": features["sharpness"] < limits.min_sharpness,
        "uncovered": features["dark"] >= limits.min_dark and features["uncovered"] > limits.max_uncovered,
        "unsupported": enough and features["unsupported"] > limits.max_unsupported,
        "outlines": enough and features["edge"] < limits.min_edge,
        "implausible": features["density"] > limits.max_density,
    }
    return next((name for name, bad in asked.items() if bad), "")


def _blobs(dark: BoolImage, size: float) -> BoolImage:
    """``dark`` without threads (keratin, fibres) and without 4-connected pieces of fewer than ``size`` pixels."""
    labels, count = ndimage.label(ndimage.binary_opening(dark, structure=np.ones((3, 3), dtype=bool)))
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= size
    keep[0] = False
    return keep[labels]


@compiled
def _contrasts(
    labels: npt.NDArray[np.int32], contrast: FloatImage, rings: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean contrast of each nucleus, of the ring around it and of its outermost pixels, each (N,); NaN if empty.

    The rings are those of :func:`wsiseg.qc.surroundings.surroundings`.
    """
    height, length = labels.shape
    count = labels.max()
    total = np.zeros((3, count + 1))
    pixels = np.zeros((3, count + 1))
    for i in range(height):
        for j in range(length):
            name = rings[i, j]
            total[1, name] += contrast[i, j]
            pixels[1, name] += 1
            name = labels[i, j]
            if name == 0:
                continue
            total[0, name] += contrast[i, j]
            pixels[0, name] += 1
            rim = False
            for di, dj in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                y, x = i + di, j + dj
                if 0 <= y < height and 0 <= x < length and labels[y, x] == 0:
                    rim = True
            if rim:
                total[2, name] += contrast[i, j]
                pixels[2, name] += 1
    means = total[:, 1:] / pixels[:, 1:]
    return means[0], means[1], means[2]
