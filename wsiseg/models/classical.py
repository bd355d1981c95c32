"""Nuclei without a network: haematoxylin by colour deconvolution, one threshold a slide, a distance watershed.

A baseline and a fallback that needs no weights. Its only statistic, the threshold, is the slide's: a threshold of
each tile's own would cut a nucleus on a seam twice, at two heights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.histogram import otsu
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.stain import hematoxylin, optical_density_table
from wsiseg.models.decoders.maps import Map, kernel_radius, smooth
from wsiseg.models.decoders.watershed import WatershedDecoder

Image = npt.NDArray[np.uint8]

_BINS = np.linspace(-0.3, 2.0, 461)  # of the histogram of optical densities
_GLASS_OD = 0.04  # mean optical density below which a pixel is not tissue
_MIN_TISSUE_PX = 4096
_DEFAULT_THRESHOLD = 0.2
_THRESHOLDS = (0.05, 0.6)


@dataclass(frozen=True)
class ClassicalSegmenter:
    """A :class:`wsiseg.models.base.Segmenter`; the defaults were chosen on MoNuSeg's 16 training images.

    Attributes
    ----------
    smoothing_um : float
        Standard deviation of the Gaussian over the haematoxylin density.
    threshold_factor : float
        Multiplies Otsu's threshold.
    softness_od : float
        Scale of the logistic that makes a foreground probability of the distance to the threshold: so much above
        it is 0.73.
    decoder : WatershedDecoder
    """

    smoothing_um: float = 0.5
    threshold_factor: float = 1.05
    softness_od: float = 0.05
    decoder: WatershedDecoder = WatershedDecoder()  # noqa: RUF009  (frozen)

    @property
    def name(self) -> str:
        return "classical"

    @property
    def mpp(self) -> float:
        return self.decoder.mpp

    @property
    def stride_px(self) -> int:
        return 1

    @property
    def margin_px(self) -> int:
        return self.decoder.margin_px + kernel_radius(self.smoothing_um / self.mpp)

    @property
    def max_diameter_um(self) -> float:
        return self.decoder.max_diameter_um

    def describe(self) -> dict[str, Any]:
        """Name, licence, parameters: what decides the result beside the image and the calibration."""
        return {
            "name": self.name,
            "weights_sha256": None,
            "licence": "Apache-2.0",
            "mpp": self.mpp,
            "parameters": asdict(self),
        }

    def calibrate(self, images: Iterable[Image]) -> dict[str, float]:
        """``threshold_od``: Otsu's threshold of the haematoxylin density over all tissue pixels of ``images``.

        The order of the images does not matter. Kept between 0.05 and 0.6; 0.2 where there is next to no tissue.
        """
        counts = np.zeros(len(_BINS) - 1, dtype=np.int64)
        densities = optical_density_table()
        for image in images:
            tissue = densities[image].mean(axis=2) > _GLASS_OD
            counts += np.histogram(np.clip(self._density(image)[tissue], _BINS[0], _BINS[-1]), _BINS)[0]
        if counts.sum() < _MIN_TISSUE_PX:
            return {"threshold_od": _DEFAULT_THRESHOLD}
        return {"threshold_od": float(np.clip(self.threshold_factor * otsu(counts, _BINS), *_THRESHOLDS))}

    def segment(self, images: Sequence[Image], calibration: Mapping[str, float]) -> list[Nuclei]:
        """Nuclei of each uint8 image (h, w, 3), in its pixels, with column ``score``; see the protocol."""
        threshold = np.float32(calibration.get("threshold_od", _DEFAULT_THRESHOLD))
        return [self.decoder.decode(self._foreground(image, threshold)) for image in images]

    def _density(self, image: Image) -> Map:
        return smooth(hematoxylin(image), self.smoothing_um / self.mpp)

    def _foreground(self, image: Image, threshold: np.float32) -> Map:
        depth = (threshold - self._density(image)) / np.float32(self.softness_od)
        return 1 / (1 + np.exp(depth))
