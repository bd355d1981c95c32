"""What is imported: the outlines of one slide in files of another program, and what a format's module says of them.

A module that is in :data:`wsiseg.interop.SOURCES` has two functions. ``describe_outlines(segmentation)`` gives the
:class:`Contents` without reading the outlines. ``iter_outlines(segmentation, passed)`` yields them as
:class:`~wsiseg.core.nuclei.Nuclei` in the file's own coordinates, in pieces that fit the memory; of their columns
``score`` (0–1), ``type`` and ``type_prob`` are kept. What in the file is no outline is counted in ``passed`` by its
kind. Both raise UsageError for a file that is not of the format.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from wsiseg.core.nuclei import Nuclei
from wsiseg.interop import SOURCES
from wsiseg.stitch.cuts import CutLines


@dataclass(frozen=True)
class Segmentation:
    """One slide's outlines in another program's files, not read yet.

    Attributes
    ----------
    format : str
        A name in :data:`wsiseg.interop.SOURCES`.
    name : str
        What the files call the slide: their name without suffix, or of a QuIP table its folder's.
    paths : tuple of Path
        Files, or the folder or archive of QuIP tables.
    """

    format: str
    name: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Contents:
    """What files say of themselves before their outlines are read.

    Attributes
    ----------
    types : tuple of str
        Names of the types of nuclei, by number.
    lines : CutLines or None
        The tiles that the outlines were made in, in the files' pixels.
    size : (width, height) or None
        Of the slide in the files' pixels.
    mpp : float or None
        Microns per pixel of the slide.
    from_bounds : bool
        Coordinates begin at the corner of the slide's bounds (see :func:`wsiseg.core.featurefile.viewer_origin`).
    notes : tuple of str
        Sentences on what nobody would expect.
    """

    types: tuple[str, ...] = ()
    lines: CutLines | None = None
    size: tuple[int, int] | None = None
    mpp: float | None = None
    from_bounds: bool = False
    notes: tuple[str, ...] = ()


class _Source(Protocol):
    """What a format's module has."""

    def describe_outlines(self, segmentation: Segmentation) -> Contents: ...
    def iter_outlines(self, segmentation: Segmentation, passed: Counter[str]) -> Iterator[Nuclei]: ...


def describe_outlines(segmentation: Segmentation) -> Contents:
    """See the module; of the segmentation's own format."""
    return _source(segmentation).describe_outlines(segmentation)


def iter_outlines(segmentation: Segmentation, passed: Counter[str]) -> Iterator[Nuclei]:
    """See the module; of the segmentation's own format."""
    return _source(segmentation).iter_outlines(segmentation, passed)


def _source(segmentation: Segmentation) -> _Source:
    module: object = importlib.import_module(f"wsiseg.interop.{SOURCES[segmentation.format]}")
    return cast(_Source, module)
