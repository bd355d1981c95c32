"""The settings of a training, section by section of a recipe, as frozen values that refuse the impossible."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from wsiseg.train.source import Ingredient


@dataclass(frozen=True)
class Choice:
    """Something of a registry: its ``name``, and ``parameters`` that differ from its defaults."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """What is trained and validated on.

    Attributes
    ----------
    mpp : float
        Microns per pixel.
    side : int
        Side of the patches that sources cut, in pixels.
    train, validation : tuple of Ingredient
    styles : tuple of Ingredient
        Patches that lend their stains to those that are trained on (:attr:`Augment.transport`); their labels do not
        count. Empty: those that are trained on.
    """

    mpp: float
    side: int
    train: tuple[Ingredient, ...]
    validation: tuple[Ingredient, ...] = ()
    styles: tuple[Ingredient, ...] = ()

    def __post_init__(self) -> None:
        _require(0.05 <= self.mpp <= 20, "mpp", self.mpp, "microns per pixel, 0.05 to 20")
        _require(16 <= self.side <= 4096, "side", self.side, "pixels, 16 to 4096")
        _require(bool(self.train), "train", "none", "[[data.train]] tables")


@dataclass(frozen=True)
class Augment:
    """How patches are varied, each draw anew; 0 and (1, 1) mean not at all.

    Attributes
    ----------
    symmetries : bool
        One of the eight turns and reflections.
    rotate : float
        Probability of a rotation by any angle.
    scale : pair of float
        Enlargement, drawn log-uniformly.
    stain : float
        Standard deviation of the logarithm of each stain's strength (haematoxylin, eosin, residual).
    shift, exposure : float
        Standard deviations of an added optical density and of the logarithm of the brightness, of each channel.
    blur, jpeg, noise : float
        Probabilities.
    blur_px : pair of float
        Standard deviation of the Gaussian blur.
    jpeg_quality : pair of int
    noise_level : float
        Largest standard deviation of the noise, in grey levels.
    transport : float
        Probability of another patch's stains, to a share of the way drawn evenly (:mod:`wsiseg.train.stains`).
    """

    symmetries: bool = True
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    stain: float = 0.16
    shift: float = 0.03
    exposure: float = 0.05
    blur: float = 0.25
    blur_px: tuple[float, float] = (0.3, 1.0)
    jpeg: float = 0.0
    jpeg_quality: tuple[int, int] = (40, 95)
    noise: float = 0.3
    noise_level: float = 5.0
    transport: float = 0.0

    def __post_init__(self) -> None:
        for name in ("rotate", "transport", "blur", "jpeg", "noise"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a probability, 0 to 1")
        for name in ("stain", "shift", "exposure", "noise_level"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more")
        _require(0.2 <= self.scale[0] <= self.scale[1] <= 5, "scale", self.scale, "least and most, within 0.2 to 5")
        _require(0 < self.blur_px[0] <= self.blur_px[1] <= 5, "blur_px", self.blur_px, "least and most, up to 5 px")
        _require(
            1 <= self.jpeg_quality[0] <= self.jpeg_quality[1] <= 100,
            "jpeg_quality",
            self.jpeg_quality,
            "least and most, within 1 to 100",
        )


@dataclass(frozen=True)
class Optimise:
    """The optimisation. Exactly one of ``steps`` and ``epochs`` is given.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    epochs : float
        Steps as a multiple of (training patches / batch).
    batch : int
        Patches a step.
    crop : int
        Side of what is cut from each patch, in pixels.
    optimiser : str
        AdamW, or Adam (without decay of the weights).
    rate : float
        Peak of the learning rate.
    schedule : str
        ``cosine`` to zero, ``constant``, or ``step``: times ``drop`` at each of ``drops``.
    drops : tuple of float
        Fractions of the training.
    drop : float
    warmup : int
        Steps over which the rate rises linearly.
    weight_decay : float
    average : float
        Decay of the moving average of the weights, which is what is validated and exported; 0: the weights.
    precision : str
        ``auto``: bf16 where the hardware computes in it.
    clip : float
        Largest norm of the gradient; 0: any.
    """

    steps: int | None = None
    epochs: float | None = None
    batch: int = 8
    crop: int = 192
    optimiser: Literal["adamw", "adam"] = "adamw"
    rate: float = 2e-3
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    drops: tuple[float, ...] = (0.5, 0.75)
    drop: float = 0.1
    warmup: int = 60
    weight_decay: float = 1e-4
    average: float = 0.995
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    clip: float = 5.0

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("steps", "epochs") if getattr(self, name) is not None}
        if len(given) != 1:
            raise ValueError(f"got {' and '.join(given) or 'none'}; expected one of steps and epochs")
        for name, value in given.items():
            _require(0 < value < math.inf, name, value, "more than 0")
        for name in ("batch", "crop"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("rate", "drop"):
            _require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "more than 0")
        for name in ("warmup", "weight_decay", "clip"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more")
        _require(0 <= self.average < 1, "average", self.average, "0 or more, below 1")
        _require(all(0 < d < 1 for d in self.drops), "drops", self.drops, "fractions of the training, 0 to 1")


@dataclass(frozen=True)
class Stop:
    """Validation, and stopping by it.

    Attributes
    ----------
    every : int
        Steps between validations. The best network by AJI is kept.
    patience : int
        Validations without a better AJI after which training stops; 0: it goes to its end.
    images : int
        How many validation patches, spread evenly; 0: all.
    keep : str
        Which weights are exported: the ``best`` by AJI, or the ``last``, where nothing is held out.
    """

    every: int = 250
    patience: int = 0
    images: int = 0
    keep: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        _require(self.every >= 1, "every", self.every, "1 or more")
        for name in ("patience", "images"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


@dataclass(frozen=True)
class Start:
    """Weights to start from.

    Attributes
    ----------
    weights : str
        A model of the package, or a name of data: a weight file. Empty: fresh weights, by the seed.
    encoder : str
        A name of data: a classifier's weights, for the encoder of a network that has one; the rest is fresh.
    keep : float
        What is exported is this part of the weights that it started from and the rest of those that it came to.
        Half of each keeps what was known of other stains and organs [1]_.

    References
    ----------
    .. [1] Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022, doi:10.1109/CVPR52688.2022.00780.
    """

    weights: str = ""
    encoder: str = ""
    keep: float = 0.0

    def __post_init__(self) -> None:
        _require(not (self.weights and self.encoder), "encoder", self.encoder, "nothing beside weights")
        _require(0 <= self.keep < 1, "keep", self.keep, "a fraction, 0 or more, below 1")
        _require(self.keep == 0 or bool(self.weights), "keep", self.keep, "weights to keep a part of")


@dataclass(frozen=True)
class Rounds:
    """Semi-supervised rounds: a student learns from the labelled part and its teacher's labels of the rest.

    Attributes
    ----------
    count : int
    labelled, validation : float
        Fractions of the training patches; the rest is unlabelled, besides ``unlabelled`` sources. With a
        ``validation`` of 0, ``[[data.validation]]`` is used.
    steps : int
        Steps of a student; or ``epochs``, of its patches.
    share : float
        Of the patches in a batch, those with the teacher's labels.
    rate : float
        Peak learning rate of the students.
    soft : bool
        Targets of the foreground are the teacher's probabilities everywhere. Otherwise they are inside its sure
        nuclei, and unlikely pixels are background; the others say nothing.
    sure : float
        Least score of a nucleus that has a centre to be learnt, and counts as sure.
    unknown : float
        Foreground probability below which a pixel outside is background, where not ``soft``.
    mirrors : bool
        The teacher's maps are averaged over mirror images: four times the time.
    unlabelled : tuple of Ingredient
        What is labelled besides the rest of the training patches.
    """

    count: int = 5
    labelled: float = 0.45
    validation: float = 0.05
    steps: int | None = None
    epochs: float | None = None
    share: float = 0.5
    rate: float = 1e-3
    soft: bool = True
    sure: float = 0.85
    unknown: float = 0.1
    mirrors: bool = False
    unlabelled: tuple[Ingredient, ...] = ()

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("expected one of steps and epochs")
        name = "steps" if self.epochs is None else "epochs"
        _require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "more than 0")
        _require(self.count >= 1, "count", self.count, "1 or more")
        _require(0 < self.labelled <= 1, "labelled", self.labelled, "a fraction, above 0")
        _require(0 <= self.validation < 1, "validation", self.validation, "a fraction, below 1")
        total = self.labelled + self.validation
        _require(total <= 1, "labelled + validation", total, "at most 1")
        _require(0 < self.share < 1, "share", self.share, "a fraction, 0 to 1")
        _require(0 < self.rate < math.inf, "rate", self.rate, "more than 0")
        for name in ("sure", "unknown"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a score or probability, 0 to 1")


@dataclass(frozen=True)
class Recipe:
    """A training.

    Attributes
    ----------
    name, summary, licence, limits
        For the card of the weights.
    data, augment, optimise, stop, rounds
        Sections of the same names.
    network, head : Choice
        Of :mod:`wsiseg.models.networks` and :mod:`wsiseg.models.heads`.
    decoder : mapping
        Parameters of the head's decoder that differ from its defaults.
    seed : int
        Of the initial weights, the augmentation and the order of the patches.
    loss : mapping
        Parameters of the head's loss that differ from its defaults.
    start : Start
    margin_px : int or None
        What a tile must read around its nuclei, where it was measured; by default all that can have an effect.
    """

    name: str
    summary: str
    licence: str
    data: Data
    network: Choice
    head: Choice
    optimise: Optimise
    decoder: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    limits: tuple[str, ...] = ()
    augment: Augment = field(default_factory=Augment)
    loss: Mapping[str, Any] = field(default_factory=dict)
    stop: Stop = field(default_factory=Stop)
    start: Start = field(default_factory=Start)
    rounds: Rounds | None = None
    margin_px: int | None = None

    def __post_init__(self) -> None:
        named = re.fullmatch(r"[A-Za-z0-9][\w.\-]*", self.name)
        expected = "letters, digits, '.', '_' and '-': it names the weight file"
        _require(named is not None, "name", repr(self.name), expected)
        for name in ("seed", "margin_px"):
            _require((getattr(self, name) or 0) >= 0, name, getattr(self, name), "0 or more")


def _require(holds: bool, name: str, got: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name}: got {got}; expected {expected}")
