"""``kind = "snow"``: tiles in SNOW's layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.core.select import ALL, Select
from wsiseg.interop import snow
from wsiseg.train.patches import PatchPool
from wsiseg.train.source import Frame
from wsiseg.train.sources.folder import FolderSource


@dataclass(frozen=True)
class SnowSource:
    """``Image/seed0000.png`` with ``Mask/seed0000.mat``; see :mod:`wsiseg.interop.snow`.

    Attributes
    ----------
    data : Path
        Folder that holds ``Image`` and ``Mask``.
    mpp : float
        Microns per pixel; SNOW has 40x.
    select : Select
        Which tiles, in the order of their names, which are ``seed0000`` and so on.
    overlap : float
        Least share of a patch's side that the next one covers again, 0 to below 1.
    licence : str
        Of the data, for the model card.
    """

    data: Path
    mpp: float = snow.MPP
    select: Select = ALL
    overlap: float = 0.0
    licence: str = "unknown"

    def __post_init__(self) -> None:
        self._folder("")

    def describe(self, frame: Frame) -> dict[str, Any]:
        return {**self._found().describe(frame), "kind": "snow"}

    def statements(self) -> tuple[str, ...]:
        count = len(self._found().pairs())
        return (f"{count} tiles of {self.data.name} in SNOW's layout, licence: {self.licence}",)

    def parts(self, frame: Frame, first: int) -> Iterator[PatchPool]:
        return self._found().parts(frame, first)

    def _found(self) -> FolderSource:
        return self._folder(snow.mask_folder(self.data))

    def _folder(self, masks: str) -> FolderSource:
        return FolderSource(
            self.data, images=snow.IMAGE_FOLDER, labels=masks, mpp=self.mpp,
            select=self.select, overlap=self.overlap, licence=self.licence,
        )  # fmt: skip
