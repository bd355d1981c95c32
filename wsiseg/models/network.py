"""A network, an engine and the offset decoder joined to a segmenter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from wsiseg.errors import ModelError
from wsiseg.models.base import Image, ModelCard
from wsiseg.models.decoders.offsets import OffsetDecoder
from wsiseg.models.engine import Engine, Maps, Placement
from wsiseg.models.unet import UNet, UNetConfig
from wsiseg.models.weights_io import WeightFile
from wsiseg.nuclei import Nuclei

MARGIN_PX = 48
"""What a tile reads beyond the largest nucleus. The default network's field reaches 94 px. Measured on a slide,
the foreground 64 px from a window's edge is off by .2 at most, 80 px by .05, from 96 px on by nothing at all.
With this margin a tile's halo is 112 px; tiles of 512 and of 2048 px then gave identical nuclei (bf16, float32).
"""


class NetworkSegmenter:
    """Foreground and offsets by a U-Net, nuclei by votes; see :class:`wsiseg.models.base.Segmenter`.

    Parameters
    ----------
    card : ModelCard
    weights_sha256 : str
    engine : Engine
    decoder : OffsetDecoder
    flips : bool
        Average the maps over the four mirror images: four times the time, about .01 AJI.
    """

    def __init__(
        self, card: ModelCard, weights_sha256: str, engine: Engine, decoder: OffsetDecoder, flips: bool = False
    ) -> None:
        self.card = card
        self.weights_sha256 = weights_sha256
        self.engine = engine
        self.decoder = decoder
        self.flips = flips

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def mpp(self) -> float:
        return self.decoder.mpp

    @property
    def stride_px(self) -> int:
        return self.engine.config.stride_px

    @property
    def margin_px(self) -> int:
        return MARGIN_PX

    @property
    def max_diameter_um(self) -> float:
        return self.decoder.max_diameter_um

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": "network",
            "weights_sha256": self.weights_sha256,
            "licence": self.card.licence,
            "mpp": self.mpp,
            "network": self.engine.config.to_dict() | {"widths": list(self.engine.config.widths)},
            "decoder": asdict(self.decoder),
            "precision": self.engine.placement.precision,
            "flips": self.flips,
        }

    def calibrate(self, images: Iterable[Image]) -> dict[str, float]:
        """Nothing: the network sees enough stains in training."""
        return {}

    def segment(self, images: Sequence[Image], calibration: Mapping[str, float]) -> list[Nuclei]:
        return [self.decoder.decode(foreground, offsets) for foreground, offsets in self.maps(images)]

    def maps(self, images: Sequence[Image]) -> list[tuple[Maps, Maps]]:
        """Foreground (h, w) and offsets (2, h, w: y, x in pixels) of each image, before decoding."""
        if not self.flips:
            return self.engine.run(images)
        return [_mean_of_mirrors(self.engine, image) for image in images]


def network_segmenter(weights: WeightFile, placement: Placement, flips: bool = False) -> NetworkSegmenter:
    """Build the segmenter that a weight file describes.

    Raises
    ------
    ModelError
        The weights do not fit the architecture, or the file's parameters are not known.
    """
    config = UNetConfig(**_known(UNetConfig, weights.network, weights.card.name))
    config = UNetConfig(tuple(config.widths), config.offset_scale_px)
    decoder = OffsetDecoder(**_known(OffsetDecoder, weights.decoder, weights.card.name))
    network = UNet(config)
    expected, found = set(network.state_dict()), set(weights.state)
    if expected != found:
        missing, extra = sorted(expected - found)[:3], sorted(found - expected)[:3]
        raise ModelError(
            f"weights of {weights.card.name!r} do not fit a U-Net of widths {config.widths}: "
            f"missing {missing or 'none'}, unexpected {extra or 'none'}"
        )
    try:
        network.load_state_dict(dict(weights.state))
    except RuntimeError as error:
        raise ModelError(f"weights of {weights.card.name!r} do not fit: {error}") from error
    return NetworkSegmenter(weights.card, weights.sha256, Engine(network, placement), decoder, flips)


def _known(parameters: type, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    known = {f.name for f in fields(parameters)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ModelError(
            f"weights of {name!r}: unknown parameters {unknown} of {parameters.__name__}. "
            "They were written by another version of wsiseg."
        )
    return dict(values)


def _mean_of_mirrors(engine: Engine, image: Image) -> tuple[Maps, Maps]:
    flips = [(1, 1), (-1, 1), (1, -1), (-1, -1)]
    maps = engine.run([np.ascontiguousarray(image[::y, ::x]) for y, x in flips])
    foreground = np.mean([f[::y, ::x] for (f, _), (y, x) in zip(maps, flips, strict=True)], axis=0)
    signs = [np.array([y, x], dtype=np.float32)[:, None, None] for y, x in flips]
    turned = [o[:, ::y, ::x] * s for (_, o), (y, x), s in zip(maps, flips, signs, strict=True)]
    return foreground.astype(np.float32), np.mean(turned, axis=0).astype(np.float32)
