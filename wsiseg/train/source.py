"""What a source of training patches is. The kinds are in :mod:`wsiseg.train.sources`.

A kind is a frozen dataclass whose fields are its parameters in a recipe's ``[[data.train]]``: numbers, booleans,
strings, tuples of them, ``Path`` for data, and frozen dataclasses of such, which are tables in its table. A recipe
writes a ``Path`` as a name, which ``--data NAME=PATH`` resolves. A value that makes no sense is refused by
``__post_init__`` with a ``ValueError``, which the recipe turns into an error that says where.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from wsiseg.train.patches import PatchPool


@dataclass(frozen=True)
class Frame:
    """What all patches of a recipe have in common, and what they may be made with.

    Attributes
    ----------
    mpp : float
        Microns per pixel of the patches.
    side : int
        Side of a patch in pixels. A source whose images are smaller, or have a size of their own that must not be
        cut (as patches that were rendered), may give another.
    workers : int
        Processes that it may use; what comes out does not depend on it.
    """

    mpp: float
    side: int
    workers: int = 1


@runtime_checkable
class Source(Protocol):
    """Patches from one place."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def describe(self, frame: Frame) -> dict[str, Any]:
        """JSON that decides the patches: parameters without paths, and what identifies the content of the data.

        Its digest names the folder that the patches are kept in, so it must change when the data do.

        Raises
        ------
        UsageError
            The data are not there, or are not what this kind reads.
        """
        ...

    def statements(self) -> tuple[str, ...]:
        """Lines for the model card: what the data are, and their licence."""
        ...

    def parts(self, frame: Frame, first: int) -> Iterator[PatchPool]:
        """The patches from number ``first`` on, always the same ones in the same order, a few at a time.

        All have one size. See :func:`wsiseg.train.patches.write_pool`.

        Raises
        ------
        UsageError
            As :meth:`describe`.
        """
        ...


@dataclass(frozen=True)
class Ingredient:
    """A source, and the proportion of the patches in a batch that come from it, relative to the others'."""

    kind: str
    source: Source
    proportion: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.proportion < math.inf:
            raise ValueError(f"proportion: got {self.proportion}; expected more than 0")
