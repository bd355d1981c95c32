"""A network, an engine, a head and its decoder joined to a segmenter: one way from any weights to nuclei."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import ModelError
from wsiseg.models.base import Image, ModelCard
from wsiseg.models.decoders import Decoder, HoverDecoder, OffsetDecoder, build_decoder, decoder_name
from wsiseg.models.engine.engine import Engine, Placement
from wsiseg.models.engine.joined import REACH_PX, mean_of_networks
from wsiseg.models.engine.mirrors import mean_of_mirrors
from wsiseg.models.files import JOINT, sha256_of
from wsiseg.models.heads import Head, Maps, head_by_name, head_of
from wsiseg.models.networks import build_network
from wsiseg.models.networks.published import load_published_checkpoint
from wsiseg.models.weightfile import Named, WeightFile

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsiseg.models.foreign.manifest import Manifest


class NetworkSegmenter:
    """Maps by a network, nuclei by its head's decoder; see :class:`wsiseg.models.base.Segmenter`.

    Parameters
    ----------
    card : ModelCard
    weights_sha256 : str
    network : Named
        Name and parameters of the architecture, for :meth:`describe`.
    engine : Engine
    decoder : Decoder
        One that reads the maps of ``engine.head``.
    margin_px : int, optional
        As measured with these weights. Without, all that the network can see and the decoder looks at.
    flips : bool
        Average the maps over the four mirror images: four times the time, about .01 AJI.
    types : sequence of str
        Names for the types of nuclei, the background's first; by default numbers, () without a map of types.

    Attributes
    ----------
    others : tuple of NetworkSegmenter
        Networks whose maps are averaged with this one's before its decoder reads them (:func:`join`).
    """

    def __init__(
        self,
        card: ModelCard,
        weights_sha256: str,
        network: Named,
        engine: Engine,
        decoder: Decoder,
        margin_px: int | None = None,
        flips: bool = False,
        types: Sequence[str] = (),
    ) -> None:
        self.card = card
        self.weights_sha256 = weights_sha256
        self.network = network
        self.engine = engine
        self.decoder = decoder
        self.flips = flips
        self.types = tuple(types) or engine.head.type_names(engine.config.outputs)
        self._margin_px = margin_px
        self.others: tuple[NetworkSegmenter, ...] = ()

    @property
    def name(self) -> str:
        return JOINT.join(one.card.name for one in (self, *self.others))

    @property
    def head(self) -> Head:
        return self.engine.head

    @property
    def mpp(self) -> float:
        return self.decoder.mpp

    @property
    def stride_px(self) -> int:
        return math.lcm(
            int(self.engine.config.stride_px), *(self._factor(one) * one.stride_px for one in self.others)
        )

    @property
    def margin_px(self) -> int:
        return max(self._own_margin_px, *(self._factor(one) * (one.margin_px + REACH_PX) for one in self.others), 0)

    @property
    def _own_margin_px(self) -> int:
        if self._margin_px is not None:
            return self._margin_px
        return int(self.engine.config.reach_px) + self.decoder.margin_px

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
            "network": self.network.to_dict(),
            "head": self.head.name,
            "decoder": {"name": decoder_name(self.decoder), "parameters": asdict(self.decoder)},
            "margin_px": self.margin_px,
            "engine": self.engine.placement.engine,
            "precision": self.engine.placement.precision,
            "flips": self.flips,
            **({"types": list(self.types)} if self.types else {}),
            **({"others": [one.describe() for one in self.others]} if self.others else {}),
        }

    def calibrate(self, images: Iterable[Image]) -> dict[str, float]:
        """The decoder's statistics of the slide, if it needs any: most need none, and no image is read."""
        stride = self.stride_px
        whole = (i[: i.shape[0] // stride * stride, : i.shape[1] // stride * stride] for i in images)
        samples = itertools.chain.from_iterable(self.maps([image]) for image in whole if image.size)
        return self.head.calibrate(samples, self.decoder)

    def segment(self, images: Sequence[Image], calibration: Mapping[str, float]) -> list[Nuclei]:
        if self.engine.placement.device != "cpu" and isinstance(self.decoder, OffsetDecoder):
            return self.segment_on_device(images, self.decoder)
        return [self.head.decode(maps, self.decoder, calibration) for maps in self.maps(images)]

    def segment_on_device(self, images: Sequence[Image], decoder: OffsetDecoder) -> list[Nuclei]:
        """:meth:`segment` by what a device does best: bytes go up, runs of labels come down, maps stay there.

        The same nuclei but where two values are equal up to rounding (:mod:`wsiseg.models.decoders.offsets_torch`).
        """
        from wsiseg.models.decoders.offsets_torch import find_on_device

        found = []
        for image in images:  # one after the other: a device holds the maps of one
            ((foreground, offsets),) = self._maps_on_device([image])
            decode = partial(find_on_device, foreground, offsets, decoder)
            found.append(decoder.nuclei(*self.engine.with_memory(decode)))
        return found

    def maps(self, images: Sequence[Image]) -> list[tuple[Maps, ...]]:
        """What the decoder reads of each image, in the order of its arguments (:meth:`Head.activate`).

        For the head "offsets": foreground (h, w) and offsets (2, h, w: y, x in pixels).
        """
        return [tuple(one.cpu().numpy() for one in maps) for maps in self._maps_on_device(images)]

    def _maps_on_device(self, images: Sequence[Image]) -> list[tuple[Tensor, ...]]:
        """:meth:`maps`, where the network ran."""
        if not self.others:
            return self._own_maps(images)
        runs = [(1, self._own_maps), *((self._factor(one), one._own_maps) for one in self.others)]
        return [mean_of_networks(runs, image, self.head) for image in images]

    def _own_maps(self, images: Sequence[Image]) -> list[tuple[Tensor, ...]]:
        """This network's part of the maps."""
        if not self.flips:
            return self.engine.run_on_device(images)
        return [mean_of_mirrors(self.engine.run_on_device, image, self.head) for image in images]

    def _factor(self, other: NetworkSegmenter) -> int:
        """How many times coarser another network sees."""
        return round(other.mpp / self.mpp)


def join(segmenters: Sequence[NetworkSegmenter]) -> NetworkSegmenter:
    """One segmenter of several networks: their maps are averaged, the decoder of the finest reads them.

    Networks that err differently find more together, and less that is not there.

    Raises
    ------
    ModelError
        Their heads differ or tell types apart, or one's pixels are no whole multiple of the finest's.
    """
    first, *others = sorted(segmenters, key=lambda one: one.mpp)
    for other in others:
        if other.head != first.head or first.types or other.types:
            raise ModelError(
                f"{first.name!r} and {other.name!r} cannot be joined: heads {first.head.name} and "
                f"{other.head.name}. Expected networks with the same maps and without types of nuclei"
            )
        ratio = other.mpp / first.mpp
        if abs(ratio - round(ratio)) > 1e-6:
            raise ModelError(
                f"{first.name!r} and {other.name!r} cannot be joined: {other.mpp:g} µm a pixel is no whole "
                f"multiple of {first.mpp:g}"
            )
    first.others = tuple(others)
    return first


def network_segmenter(weights: WeightFile, placement: Placement, flips: bool = False) -> NetworkSegmenter:
    """Build the segmenter that a weight file describes.

    Raises
    ------
    ModelError
        The weights do not fit the architecture, the head does not fit its maps or the decoder the head, or the
        file's names or parameters are not known.
    """
    try:
        network = build_network(weights.network.name, weights.network.parameters)
        config: Any = network.config
        head = head_of(config.outputs) if weights.head is None else head_by_name(weights.head)
        if not head.fits(config.outputs):
            raise ModelError(f"network {weights.network.name!r} has the maps {config.outputs}, not {head.outputs}")
        named = weights.decoder or Named(head.decoders[0])
        if named.name not in head.decoders:
            raise ModelError(f"decoder {named.name!r} does not read {head.name}; {', '.join(head.decoders)} do")
        decoder = build_decoder(named.name, named.parameters)
    except ModelError as error:
        raise ModelError(
            f"{weights.path}: {error}. Perhaps another version of wsiseg wrote these weights."
        ) from error
    _load(network, weights)
    engine = Engine(network, placement, head)
    return NetworkSegmenter(
        weights.card, weights.sha256, weights.network, engine, decoder, weights.margin_px, flips
    )


def hovernet_segmenter(path: Path, placement: Placement, manifest: Manifest | None = None) -> NetworkSegmenter:
    """HoVer-Net with the weights of a published checkpoint (``.tar``).

    Without a manifest at the authors' 0.25 µm a pixel, with their decoder, and with numbers for types.

    Raises
    ------
    ModelError
        As :func:`wsiseg.models.networks.published.load_published_checkpoint`; or the manifest names other types
        than there are.
    """
    network = load_published_checkpoint(path)
    digest = sha256_of(path)
    card = ModelCard(path.stem, "HoVer-Net, weights of a published checkpoint", "unknown: ask who published it")
    config = network.config
    named = Named(f"hovernet-{config.mode}", {"types": config.types, "divisor": config.divisor})
    engine = Engine(network, placement)
    if manifest is None:
        return NetworkSegmenter(card, digest, named, engine, HoverDecoder(mpp=0.25))
    if len(manifest.types) not in (0, config.types):
        raise ModelError(
            f"types names {len(manifest.types)} types, the network has {config.types}: expected one name for each, "
            "first that of the background, for nuclei without a type"
        )
    return NetworkSegmenter(
        manifest.card, digest, named, engine, manifest.decoder, manifest.margin_px, types=manifest.types
    )


def _load(network: nn.Module, weights: WeightFile) -> None:
    expected, found = set(network.state_dict()), set(weights.state)
    if expected != found:
        missing, extra = sorted(expected - found)[:3], sorted(found - expected)[:3]
        raise ModelError(
            f"{weights.path}: its weights do not fit the network {weights.network.name!r}: "
            f"missing {missing or 'none'}, unexpected {extra or 'none'}"
        )
    try:
        network.load_state_dict(dict(weights.state))
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(f"{weights.path}: its weights do not fit the network: {text}") from error
