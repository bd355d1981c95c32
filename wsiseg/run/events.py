"""What happens, told to whoever watches: small values, one union for segmenting, tiling, synthesis and training.

A listener is a function of one event; it matches those that it shows and passes over the others::

    match event:
        case TilesDone(slide, done, total):
            print(f"{slide}: {done} of {total} tiles")

``name`` says whose event it is: a slide's id, or the name of a dataset, a source of patches or a training's folder.
What is counted is counted from the beginning, also when an earlier call did a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from wsiseg.results.record import SlideRecord


@dataclass(frozen=True)
class Started:
    """The work on ``slides`` slides begins, on a cluster that can be watched at ``dashboard`` if it has one."""

    slides: int
    dashboard: str | None = None


@dataclass(frozen=True)
class Begun:
    """So many tiles of a slide, shards of a store or steps of a training are to do; ``done`` are there already."""

    name: str
    total: int
    done: int = 0


@dataclass(frozen=True)
class StageStarted:
    """A slide's next stage, by the name that its tasks have in the dashboard, or a source's patches are made."""

    name: str
    stage: str


@dataclass(frozen=True)
class TilesDone:
    """More tiles of a slide are segmented; this call computed ``computed`` of them, an earlier one the others.

    ``failed`` tiles could not be computed. ``pixels`` of the network's input are those of this call's tiles,
    without halos, and ``seconds`` the time that its workers spent on them, by activity.
    """

    name: str
    done: int
    total: int
    nuclei: int
    computed: int
    failed: int = 0
    pixels: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardsDone:
    """More shards of a store are written, ``bytes`` by this call."""

    name: str
    done: int
    total: int
    bytes: int


@dataclass(frozen=True)
class PatchesDone:
    """More patches are made, or labelled; how many there will be is not always known."""

    name: str
    done: int
    total: int | None = None


@dataclass(frozen=True)
class StepsDone:
    """A training is so far."""

    name: str
    done: int
    total: int
    loss: float


@dataclass(frozen=True)
class Note:
    """Something that nobody would expect, in a sentence."""

    name: str
    text: str


@dataclass(frozen=True)
class Unchanged:
    """What was asked for is there already."""

    name: str


@dataclass(frozen=True)
class SlideEnded:
    """What became of a slide: its record."""

    name: str
    record: SlideRecord


@dataclass(frozen=True)
class StoreEnded:
    """What became of a store: the record that :func:`wsiseg.convert.run.tile_slide` returns."""

    name: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Validated:
    """A network's scores after ``step`` steps; ``better`` than before, and no more hope where ``stopped``."""

    name: str
    step: int
    scores: Mapping[str, float]
    better: bool
    stopped: bool


@dataclass(frozen=True)
class RoundEnded:
    """A student's scores after round ``number`` of a training in rounds; a ``better`` one is the next teacher."""

    name: str
    number: int
    rounds: int
    scores: Mapping[str, float]
    better: bool


Event: TypeAlias = (
    Started
    | Begun
    | StageStarted
    | TilesDone
    | ShardsDone
    | PatchesDone
    | StepsDone
    | Note
    | Unchanged
    | SlideEnded
    | StoreEnded
    | Validated
    | RoundEnded
)
Listener: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener where nobody watches."""
