"""What a segmenter is, and what is said about a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.typed import Misfit, as_typed

Image = npt.NDArray[np.uint8]


@runtime_checkable
class Segmenter(Protocol):
    """Images of a fixed scale to nuclei. Safe to call from several threads.

    Attributes
    ----------
    name : str
    mpp : float
        Microns per pixel of the images that :meth:`segment` expects.
    stride_px : int
        Sides of images must be multiples of this; tiles whose origins are multiples of it see the same pooling.
    margin_px : int
        A pixel farther than this from an object has no influence on it.
    max_diameter_um : float
        No object is longer than this.
    """

    @property
    def name(self) -> str: ...
    @property
    def mpp(self) -> float: ...
    @property
    def stride_px(self) -> int: ...
    @property
    def margin_px(self) -> int: ...
    @property
    def max_diameter_um(self) -> float: ...

    def describe(self) -> dict[str, Any]:
        """JSON that, with an image and a calibration, decides the result; it enters the resume key.

        A segmenter that tells types of nuclei apart, and only such a one, has ``types`` in it: their names by
        number, the first for nuclei without a type.
        """
        ...

    def calibrate(self, images: Iterable[Image]) -> dict[str, float]:
        """Constants of one slide, from images sampled in its tissue; {} where none is needed."""
        ...

    def segment(self, images: Sequence[Image], calibration: Mapping[str, float]) -> list[Nuclei]:
        """Nuclei of each image, in its pixels, with a float32 column ``score`` (mean foreground probability).

        One with types also gives ``type`` (int16, the place among their names) and ``type_prob`` (float32).

        Parameters
        ----------
        images : sequence of uint8 array (h, w, 3)
            At ``mpp``; sides multiples of ``stride_px``.
        calibration : mapping
            What :meth:`calibrate` gave for the slide.

        Raises
        ------
        ModelError
            The model gave no usable output for an image.
        """
        ...


@dataclass(frozen=True)
class ModelCard:
    """What a user must know of a model before using it.

    Attributes
    ----------
    name, summary, licence : str
    data : tuple of str
        What it was trained on, with licences.
    recipe : str
        How to make it again: the command and the seed.
    scores : mapping
        Measured scores by name of the data set, for example ``{"monuseg test": {"aji": 0.5}}``.
    limits : tuple of str
        Where it is known to fail.
    speed : mapping
        Measured megapixels a second, network and decoder, by what it ran on, for example
        ``{"torch bf16, 2 cores with AVX-512 BF16": 5.3}``.
    """

    name: str
    summary: str
    licence: str
    data: tuple[str, ...] = ()
    recipe: str = ""
    scores: Mapping[str, Mapping[str, float]] | None = None
    limits: tuple[str, ...] = ()
    speed: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ModelCard:
        """The inverse of :meth:`to_dict`; keys that it does not know are ignored.

        Raises
        ------
        ValueError
            No name, or a value of another kind.
        """
        try:
            return as_typed({"summary": "", "licence": "unknown", **value}, cls)
        except Misfit as error:
            raise ValueError(f"a model's card: {error}") from error
