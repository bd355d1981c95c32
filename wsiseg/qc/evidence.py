"""What a patch's outlines and pixels tell of how good the outlines are, as a few named numbers.

Any segmenter's outlines have them, and so have imported ones; only the ``score`` of a nucleus may be missing. Each
number is of one patch by itself: no constants of the slide, so that a field alone gets the same as in a slide.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.core.compiled import compiled
from wsiseg.core.stain import FloatImage, eosin, hematoxylin, optical_density_table
from wsiseg.qc.agreement import local_contrast, sharpness
from wsiseg.qc.surroundings import surroundings

COLUMNS = ("score", "area_um2", "eccentricity", "solidity")
"""What is asked of each nucleus, where it is there."""

EVIDENCE = (
    "score_mean", "score_low", "score_weak",
    "area_log", "area_spread", "small", "large", "eccentricity", "thin", "solidity", "ragged",
    "contrast", "rim", "level", "level_spread", "texture", "unlike",
    "redness", "red_share", "pink",
    "touching", "covered", "per_mm2", "between", "missed",
    "detail", "stain_h", "stain_e", "stain_spread", "blue_green",
)  # fmt: skip
"""Names of the numbers, see :func:`measure_evidence`."""

_RING_UM = 3.0
_SMALL_UM2, _LARGE_UM2 = 15.0, 120.0
_THIN = 0.93  # eccentricity of an ellipse of 2.7 : 1
_RAGGED = 0.85  # solidity
_WEAK = 0.65  # score
_RED = 0.25  # optical density in red over that in green: nuclei have 0.3 to 0.9, red cells and keratin 0.05 to 0.25
_WIDE_UM, _THREAD_UM = 17.0, 3.0
_FAINT_OD = 0.05  # of glass and noise


def measure_evidence(
    image: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    tissue: npt.NDArray[np.bool_],
    nuclei: Mapping[str, npt.NDArray[np.generic]],
    count: int,
    mpp: float,
) -> dict[str, float]:
    """The numbers of one patch.

    Parameters
    ----------
    image : uint8 array (h, w, 3)
        At about 1 µm per pixel.
    labels : int32 array (h, w)
        Nuclei as 1 … N; 0 is none.
    tissue : bool array (h, w)
        Where nuclei were looked for.
    nuclei : mapping of str to array (N,)
        Those of the columns :data:`COLUMNS` that there are, of the nuclei in the order of their labels.
    count : int
        N.
    mpp : float
        Of ``image``.

    Returns
    -------
    dict
        By the names of :data:`EVIDENCE`; NaN where there is nothing to measure. Optical densities are base 10.

        Score: its mean, the lowest tenth, the share below 0.65. Shape: logarithm of the median area (µm²), its
        interquartile range, shares below 15 and above 120 µm², median eccentricity, share above 0.93, median
        solidity, share below 0.85. Haematoxylin: ``contrast`` of a nucleus over the ring around it, ``rim`` of its
        outermost pixels over the ring (medians), ``level`` inside and its spread over nuclei, ``texture`` within
        them, ``unlike``: share with less than a third of the median contrast. Colour: ``redness`` is the median of
        red over green density inside, ``red_share`` the nuclei below 0.25, ``pink`` the eosin inside over that of
        the ring. Room: ``touching`` share of rim pixels that meet another nucleus, ``covered`` share of the tissue,
        ``per_mm2``, ``between``: haematoxylin of the tissue without nuclei, ``missed``: of the area of nuclei and
        of dark spots of their size, the spots' share. Image: ``detail`` below 1 µm, mean haematoxylin and eosin of
        the tissue, spread of the haematoxylin, and density in blue over that in green, which tells other stains.
    """
    stain = ndimage.gaussian_filter(hematoxylin(image), 0.5 / mpp, mode="nearest", truncate=3.0)
    pink = eosin(image)
    table = optical_density_table().astype(np.float32)
    red, green = table[image[..., 0]], table[image[..., 1]]
    ratio = red / np.maximum(green, _FAINT_OD)
    spots = _spots(stain, mpp)
    rings = surroundings(labels, max(2, round(_RING_UM / mpp)))
    found = _regions(labels, np.stack([stain, pink, ratio, stain * stain, spots]), count, rings)
    inside, ring, rim, counts = found
    seen = counts[0] > 0
    area = int(np.count_nonzero(tissue))
    values = dict.fromkeys(EVIDENCE, np.nan)
    values |= _image_evidence(image, stain, pink, tissue, mpp)
    if area:
        blue = table[image[..., 2]]
        values["blue_green"] = float(blue[tissue].mean() / max(float(green[tissue].mean()), _FAINT_OD))
    values["covered"] = int(np.count_nonzero((labels > 0) & tissue)) / max(area, 1)
    values["per_mm2"] = float(np.count_nonzero(seen)) / (area * mpp**2 * 1e-6) if area else np.nan
    if not seen.any():
        return values
    values |= _shape_evidence({name: np.asarray(column, np.float64)[seen] for name, column in nuclei.items()})
    contrast = (inside[0] - ring[0])[seen]
    held = np.isfinite(contrast)
    level = inside[0][seen]
    if held.any():
        middle = float(np.median(contrast[held]))
        values["contrast"] = middle
        values["rim"] = _median((rim[0] - ring[0])[seen])
        values["unlike"] = float(np.mean(contrast[held] < middle / 3))
        values["pink"] = _median((inside[1] - ring[1])[seen])
    values["level"] = float(np.median(level))
    values["level_spread"] = _quartiles(level)
    values["texture"] = _median(np.sqrt(np.maximum(inside[3] - inside[0] ** 2, 0.0))[seen])
    values["redness"] = float(np.median(inside[2][seen]))
    values["red_share"] = float(np.mean(inside[2][seen] < _RED))
    values["touching"] = float(counts[3].sum() / max(counts[2].sum(), 1))
    outside = tissue & (labels == 0)
    if outside.any():
        values["between"] = float(stain[outside].mean())
        faint = float(np.quantile(inside[4][seen], 0.25))
        far = outside & ~ndimage.binary_dilation(labels > 0)
        dark = int(np.count_nonzero(far & (spots > max(faint, _FAINT_OD))))
        values["missed"] = float(dark) / max(float(dark + np.count_nonzero(labels > 0)), 1.0)
    return values


def _spots(stain: FloatImage, mpp: float) -> FloatImage:
    """What is darker than its surroundings and as wide as nuclei: neither sheets of keratin nor threads."""
    wide, thin = round(_WIDE_UM / mpp) | 1, round(_THREAD_UM / mpp) | 1
    narrow = stain - ndimage.grey_opening(stain, size=(wide, wide), mode="nearest")
    return np.asarray(ndimage.grey_opening(narrow, size=(thin, thin), mode="nearest"))


def _image_evidence(
    image: npt.NDArray[np.uint8], stain: FloatImage, pink: FloatImage, tissue: npt.NDArray[np.bool_], mpp: float
) -> dict[str, float]:
    if not tissue.any():
        return {}
    return {
        "detail": sharpness(image, mpp),
        "stain_h": float(stain[tissue].mean()),
        "stain_e": float(pink[tissue].mean()),
        "stain_spread": float(local_contrast(image, mpp)[tissue].std()),
    }


def _shape_evidence(nuclei: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
    values: dict[str, float] = {}
    if "area_um2" in nuclei:
        area = np.log(np.maximum(nuclei["area_um2"], 0.1))
        values |= {
            "area_log": float(np.median(area)),
            "area_spread": _quartiles(area),
            "small": float(np.mean(area < np.log(_SMALL_UM2))),
            "large": float(np.mean(area > np.log(_LARGE_UM2))),
        }
    if "eccentricity" in nuclei:
        values["eccentricity"] = float(np.median(nuclei["eccentricity"]))
        values["thin"] = float(np.mean(nuclei["eccentricity"] > _THIN))
    if "solidity" in nuclei:
        values["solidity"] = float(np.median(nuclei["solidity"]))
        values["ragged"] = float(np.mean(nuclei["solidity"] < _RAGGED))
    score = nuclei.get("score")
    if score is not None and np.isfinite(score).all():
        values |= {
            "score_mean": float(score.mean()),
            "score_low": float(np.quantile(score, 0.1)),
            "score_weak": float(np.mean(score < _WEAK)),
        }
    return values


def _median(values: npt.NDArray[np.floating]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else np.nan


def _quartiles(values: npt.NDArray[np.floating]) -> float:
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low)


@compiled
def _regions(
    labels: npt.NDArray[np.int32], planes: npt.NDArray[np.float32], count: int, rings: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Means (K, N) of K planes inside each nucleus, in the ring around it, and over its outermost pixels.

    And the pixels (4, N): inside, in the ring, outermost, and outermost that meet another nucleus. The rings are
    those of :func:`wsiseg.qc.surroundings.surroundings`.
    """
    kinds, height, length = planes.shape
    total = np.zeros((3, kinds, count + 1))
    pixels = np.zeros((4, count + 1), dtype=np.int64)
    for i in range(height):
        for j in range(length):
            name = rings[i, j]
            if name > 0:
                pixels[1, name] += 1
                for k in range(kinds):
                    total[1, k, name] += planes[k, i, j]
            name = labels[i, j]
            if name <= 0:
                continue
            rim, meets = False, False
            for di, dj in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                y, x = i + di, j + dj
                if 0 <= y < height and 0 <= x < length and labels[y, x] != name:
                    rim = True
                    if labels[y, x] > 0:
                        meets = True
            pixels[0, name] += 1
            for k in range(kinds):
                total[0, k, name] += planes[k, i, j]
            if rim:
                pixels[2, name] += 1
                for k in range(kinds):
                    total[2, k, name] += planes[k, i, j]
            if meets:
                pixels[3, name] += 1
    means = np.full((3, kinds, count), np.nan)
    for part in range(3):
        for name in range(1, count + 1):
            if pixels[part, name] > 0:
                for k in range(kinds):
                    means[part, k, name - 1] = total[part, k, name] / pixels[part, name]
    return means[0], means[1], means[2], pixels[:, 1:]
