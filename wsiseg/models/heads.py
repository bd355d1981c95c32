"""Heads: what a network's maps mean, and which decoder makes nuclei of them.

A head is a frozen value of :data:`HEADS`, asked for by name or by the maps that a network has::

    head = head_of(network.config.outputs)      # or head_by_name("offsets")
    raw = network(images)                       # {"foreground": (N, 1, h, w), "offsets": (N, 2, h, w), …}
    foreground, offsets = head.activate(raw)    # float32 tensors: probabilities, pixels
    decoder = build_decoder(head.decoders[0], {"mpp": 0.5})
    nuclei = head.decode((foreground[0].numpy(), offsets[0].numpy()), decoder)

Maps are raw: logits where a map is a probability, pixels where it is a length. :meth:`Head.activate` gives what the
decoder reads, in the order of its arguments; maps that only training needs (``auxiliary``) are left out.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import ModelError
from wsiseg.models.decoders import Decoder, HoverDecoder, OtsuDecoder, slope_ranges

if TYPE_CHECKING:
    from torch import Tensor

Maps = npt.NDArray[np.float32]

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "logit": lambda x: x.sigmoid()[:, 0],
        "classes": lambda x: x.softmax(1)[:, 1],
        "types": lambda x: x.softmax(1),
        "offsets": lambda x: x,
        "rays": lambda x: x,
        "distances": lambda x: x,
        "value": lambda x: x,
    }
)
_LEAST = MappingProxyType({"types": 2, "rays": 3})  # channels of the kinds that have no fixed number
_LENGTHS = ("offsets", "rays")


@dataclass(frozen=True)
class HeadMap:
    """One map of a head.

    Attributes
    ----------
    channels : int
        Of the raw map; ``types`` and ``rays`` may have others.
    kind : str
        What the channels are, and so what the decoder gets of them:

        ``logit``
            a nucleus' logit → its probability (h, w)
        ``classes``
            logits of classes, of which the second is a nucleus → its probability (h, w)
        ``types``
            logits of types, the background being the first → their probabilities (types, h, w)
        ``offsets``
            y, x in pixels from a pixel to its nucleus' centre → the same (2, h, w)
        ``distances``
            x, y from -1 to 1 across a nucleus → the same (2, h, w)
        ``rays``
            pixels from a pixel to its nucleus' border, ray k of R by an angle of 2πk/R from x to y → the same
            (R, h, w)
        ``value``
            anything else → the same
    auxiliary : bool
        Only training needs it.
    optional : bool
        A network may lack it.
    """

    channels: int
    kind: str
    auxiliary: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Head:
    """Maps by name, in the order of the decoder's arguments.

    Attributes
    ----------
    name : str
    maps : mapping of str to HeadMap
    decoders : tuple of str
        Names of the decoders (:data:`wsiseg.models.decoders.DECODERS`) that read its maps, the usual one first.
    """

    name: str
    maps: Mapping[str, HeadMap]
    decoders: tuple[str, ...]

    @property
    def outputs(self) -> dict[str, int]:
        """Names and channels of the raw maps that every network with this head has."""
        return {name: item.channels for name, item in self.maps.items() if not item.optional}

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the maps that the decoder reads."""
        return tuple(name for name, item in self.maps.items() if not item.auxiliary)

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """Names of the maps that only training needs."""
        return tuple(name for name, item in self.maps.items() if item.auxiliary)

    @property
    def lengths(self) -> tuple[str, ...]:
        """Names of the maps that are in pixels."""
        return tuple(name for name, item in self.maps.items() if item.kind in _LENGTHS)

    def type_names(self, outputs: Mapping[str, int]) -> tuple[str, ...]:
        """Names for the types that a network with these maps (names to channels) tells apart; () for none.

        The first is for nuclei without a type. What the numbers mean only who trained the network can say.
        """
        count = sum(number for name, number in outputs.items() if self.maps[name].kind == "types")
        return ("no type", *(f"type {n}" for n in range(1, count))) if count else ()

    def fits(self, outputs: Mapping[str, int]) -> bool:
        """Whether a network with these maps (names to channels) has this head; auxiliary maps may lack."""
        needed = {name for name, item in self.maps.items() if not (item.auxiliary or item.optional)}
        return needed <= set(outputs) <= set(self.maps) and all(
            count >= _LEAST.get(self.maps[name].kind, count)
            and (self.maps[name].kind in _LEAST or count == self.maps[name].channels)
            for name, count in outputs.items()
        )

    def activate(self, maps: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The decoder's arguments for a batch: float32 (N, h, w) or (N, channels, h, w), in the head's order."""
        return tuple(_ACTIVATIONS[self.maps[name].kind](maps[name].float()) for name in self.inputs if name in maps)

    def split(self, stacked: Tensor, outputs: Mapping[str, int]) -> tuple[Tensor, ...]:
        """The maps of :meth:`activate` again, of one image, from their channels (C, h, w) one after the other.

        ``outputs`` are names and channels of the raw maps that the decoder reads.
        """
        found: list[Tensor] = []
        first = 0
        for name, channels in outputs.items():
            flat = self.maps[name].kind in ("logit", "classes")
            found.append(stacked[first] if flat else stacked[first : first + channels])
            first += 1 if flat else channels
        return tuple(found)

    def decode(
        self, maps: Sequence[Maps], decoder: Decoder, calibration: Mapping[str, float] = MappingProxyType({})
    ) -> Nuclei:
        """Nuclei of one image, in its pixels, with float32 column ``score``.

        Where a map of types is among ``maps``, also with ``type`` and ``type_prob`` (:class:`HoverDecoder`).

        Parameters
        ----------
        maps : sequence of float32 array (h, w) or (channels, h, w)
            What :meth:`activate` gives for the image.
        decoder : Decoder
            One of ``decoders``.
        calibration : mapping
            What :meth:`calibrate` gave for the slide; without, a decoder that needs a statistic takes the image's.
        """
        arguments: list[Any] = list(maps)
        constants: dict[str, Any] = {}
        if isinstance(decoder, OtsuDecoder) and "threshold" in calibration:
            constants["threshold"] = calibration["threshold"]
        if isinstance(decoder, HoverDecoder):
            arguments[2:] = [types.argmax(axis=0).astype(np.int16) for types in arguments[2:]]
            if "slope_x_lowest" in calibration:
                constants["ranges"] = tuple(
                    (calibration[f"slope_{axis}_lowest"], calibration[f"slope_{axis}_highest"]) for axis in "xy"
                )
        found: Nuclei = decoder.decode(*arguments, **constants)
        return found

    def calibrate(self, samples: Iterable[Sequence[Maps]], decoder: Decoder) -> dict[str, float]:
        """Statistics that the decoder needs of a whole slide, from the maps of sampled images.

        Otsu's threshold, or the extremes of HoVer-Net's slopes; {} for a decoder that looks at neighbourhoods only,
        and then ``samples`` is not read.
        """
        if isinstance(decoder, OtsuDecoder):
            return {"threshold": decoder.threshold(maps[0] for maps in samples)}
        if isinstance(decoder, HoverDecoder):
            ranges = np.array([slope_ranges(maps[1]) for maps in samples])
            if len(ranges) == 0:
                return {}
            lowest, highest = ranges[:, :, 0].min(axis=0), ranges[:, :, 1].max(axis=0)
            return {
                f"slope_{axis}_{end}": float(values[n])
                for n, axis in enumerate("xy")
                for end, values in (("lowest", lowest), ("highest", highest))
            }
        return {}


_FOREGROUND = HeadMap(1, "logit")
HEADS: Mapping[str, Head] = MappingProxyType(
    {
        head.name: head
        for head in (
            Head(
                "offsets",
                {
                    "foreground": _FOREGROUND,
                    "offsets": HeadMap(2, "offsets"),
                    "depth": HeadMap(1, "value", auxiliary=True),
                },
                ("offsets",),
            ),
            Head("foreground", {"foreground": _FOREGROUND}, ("watershed", "otsu")),
            Head("seeds", {"detection": _FOREGROUND, "segmentation": _FOREGROUND}, ("seeds",)),
            Head(
                "hover",
                {
                    "np": HeadMap(2, "classes"),
                    "hv": HeadMap(2, "distances"),
                    "tp": HeadMap(2, "types", optional=True),
                },
                ("hover",),
            ),
            Head("star", {"probability": _FOREGROUND, "rays": HeadMap(32, "rays")}, ("star",)),
            Head("classes", {"classes": HeadMap(3, "classes")}, ("watershed", "otsu")),
        )
    }
)


def head_by_name(name: str) -> Head:
    """The head of that name.

    Raises
    ------
    ModelError
        There is none.
    """
    if name not in HEADS:
        raise ModelError(f"no head {name!r}; there are {', '.join(HEADS)}")
    return HEADS[name]


def head_of(outputs: Mapping[str, int]) -> Head:
    """The head of a network with these maps, names to channels.

    Raises
    ------
    ModelError
        No head has such maps.
    """
    for head in HEADS.values():
        if head.fits(outputs):
            return head
    heads = "; ".join(f"{head.name}: {head.outputs}" for head in HEADS.values())
    raise ModelError(f"no head has the maps {dict(outputs)}. Known are {heads}")
