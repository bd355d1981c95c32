"""HoVer-Net's decoder: a watershed of the landscape that horizontal and vertical distances draw.

Inside a nucleus the distances rise from -1 to 1; between two that touch they fall steeply. The negative slope by
a Sobel filter of 21 pixels is therefore high at borders, and what it leaves of the foreground marks the nuclei
[1]_. As in the authors' public code, whose markers, thresholds and flood this follows step by step.

The authors stretch the slopes of each map from 0 to 1 between their extremes: a statistic of the whole map,
different in every tile. For a slide take :func:`slope_ranges` of sampled tiles once and give it to every
:meth:`HoverDecoder.decode`.

References
----------
.. [1] Graham et al., HoVer-Net: simultaneous segmentation and classification of nuclei in multi-tissue histology
   images, Medical Image Analysis 58, 101563 (2019), doi:10.1016/j.media.2019.101563.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import Labels
from wsiseg.models.decoders.flood import watershed
from wsiseg.models.decoders.labels import fill_enclosed, label, majorities, means, nuclei_of_labels, open_ellipse
from wsiseg.models.decoders.maps import Map

SlopeRanges = tuple[tuple[float, float], tuple[float, float]]

_SOBEL_PX = 21


@dataclass(frozen=True)
class HoverDecoder:
    """Parameters of :func:`decode_hover`; the defaults are the authors'.

    Attributes
    ----------
    mpp : float
        Microns per pixel of the maps.
    threshold : float
        Foreground probability from which a pixel belongs to a nucleus.
    border_threshold : float
        Stretched negative slope from which a pixel belongs to a border.
    min_marker_px : int
        Smaller parts of the foreground and smaller markers are left out.
    min_area_um2, max_diameter_um : float
        Smaller and larger objects (by the longer side of their bounds) are rejected.
    """

    mpp: float = 0.25
    threshold: float = 0.5
    border_threshold: float = 0.4
    min_marker_px: int = 10
    min_area_um2: float = 0.0
    max_diameter_um: float = 32.0

    @property
    def margin_px(self) -> int:
        """What must be known around an object, given the slopes' ranges: its neighbours and the filter's reach.

        For practical purposes: a chain of touching objects can carry a difference farther.
        """
        return math.ceil(2 * self.max_diameter_um / self.mpp) + _SOBEL_PX // 2 + 4

    def decode(
        self,
        foreground: Map,
        distances: Map,
        types: npt.NDArray[np.integer] | None = None,
        ranges: SlopeRanges | None = None,
    ) -> Nuclei:
        """Nuclei in pixels of the maps.

        Parameters
        ----------
        foreground, distances, ranges
            As in :func:`decode_hover`.
        types : int array (h, w), optional
            The likeliest type of each pixel, 0 being background.

        Returns
        -------
        Nuclei
            Column ``score`` (float32): mean foreground. With ``types`` also ``type`` (int16), the type of most
            pixels, 0 only where there is no other, and ``type_prob`` (float32), their share.
        """
        labels = decode_hover(foreground, distances, self, ranges)
        columns: dict[str, npt.NDArray[np.generic]] = {"score": means(labels, foreground)}
        if types is not None:
            columns["type"], columns["type_prob"] = majorities(labels, types)
        return nuclei_of_labels(labels, columns, self.min_area_um2 / self.mpp**2, self.max_diameter_um / self.mpp)


def decode_hover(
    foreground: Map, distances: Map, params: HoverDecoder, ranges: SlopeRanges | None = None
) -> Labels:
    """Divide the foreground at the falls of the distance maps.

    Parameters
    ----------
    foreground : float32 array (h, w)
        Probability of a nucleus.
    distances : float32 array (2, h, w)
        Horizontal and vertical distance to the nucleus' centre, -1 … 1 from its first to its last pixel.
    params : HoverDecoder
    ranges : pair of (lowest, highest), optional
        The slopes that are stretched to 0 … 1, horizontal and vertical; without, the map's own extremes.

    Returns
    -------
    int32 array (h, w)
        Labels in raster order of their markers, 0 is background. Nothing is rejected here.
    """
    if foreground.ndim != 2 or distances.shape != (2, *foreground.shape):
        raise ValueError(f"distances of shape {distances.shape} for a foreground of shape {foreground.shape}")
    nuclei = label(foreground >= np.float32(params.threshold), params.min_marker_px) > 0
    slopes = _slopes(distances)
    ranges = ranges or _extremes(slopes)
    falls = [_stretched_fall(slope, *extremes) for slope, extremes in zip(slopes, ranges, strict=True)]
    border = np.where(nuclei, np.maximum(*falls), np.float32(0))
    markers = fill_enclosed(nuclei & ~(border >= np.float32(params.border_threshold)))
    markers_ = label(open_ellipse(markers), params.min_marker_px)
    depth = np.where(nuclei, np.float32(1) - border, np.float32(0))
    return watershed(-_blur(depth), markers_, nuclei)


def slope_ranges(distances: Map) -> SlopeRanges:
    """Lowest and highest slope of the horizontal and of the vertical distance map, in their units a pixel.

    Parameters
    ----------
    distances : float32 array (2, h, w)
        As in :func:`decode_hover`.
    """
    return _extremes(_slopes(distances))


def _slopes(distances: Map) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sobel's derivative over 21 pixels, divided so that a ramp of 1 a pixel gives 1; mirrored at the border."""
    smoothing = np.array([math.comb(_SOBEL_PX - 1, k) for k in range(_SOBEL_PX)], dtype=np.float64)
    binomial = [math.comb(_SOBEL_PX - 2, k) for k in range(_SOBEL_PX - 1)]
    derivative = np.diff(np.array([0, *binomial, 0], dtype=np.float64)) * -1.0
    smoothing /= smoothing.sum()
    derivative /= derivative @ (np.arange(_SOBEL_PX) - _SOBEL_PX // 2)
    horizontal, vertical = (np.asarray(part, dtype=np.float64) for part in distances)
    return _separable(horizontal, smoothing, derivative), _separable(vertical, derivative, smoothing)


def _separable(
    image: npt.NDArray[np.float64], down: npt.NDArray[np.float64], across: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    image = ndimage.correlate1d(image, across, axis=1, mode="mirror")
    return np.asarray(ndimage.correlate1d(image, down, axis=0, mode="mirror"))


def _extremes(slopes: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]) -> SlopeRanges:
    horizontal, vertical = ((float(slope.min()), float(slope.max())) for slope in slopes)
    return horizontal, vertical


def _stretched_fall(slope: npt.NDArray[np.float64], lowest: float, highest: float) -> Map:
    span = highest - lowest
    factor = 1.0 / span if span > np.finfo(np.float64).eps else 0.0
    stretched = ((slope - lowest) * factor).astype(np.float32)
    return np.clip(np.float32(1) - stretched, np.float32(0), None)


def _blur(image: Map) -> Map:
    taps = np.array([0.25, 0.5, 0.25])
    image = ndimage.correlate1d(image, taps, axis=1, mode="mirror")
    return np.asarray(ndimage.correlate1d(image, taps, axis=0, mode="mirror"))
