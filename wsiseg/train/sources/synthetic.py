"""``kind = "synthetic"``: a dataset that ``wsiseg synth`` wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.core.select import ALL, Select
from wsiseg.synth.dataset import PatchDataset, open_dataset
from wsiseg.train.patches import PatchPool
from wsiseg.train.source import Frame
from wsiseg.train.sources import cut


@dataclass(frozen=True)
class SyntheticSource:
    """Patches of a dataset (docs/synthesis.md), with their weights.

    Patches of the dataset that are larger than the recipe's are cut; smaller ones stay as they are.

    Attributes
    ----------
    data : Path
        The dataset, a zarr folder.
    select : Select
        Which patches, in the order of their numbers. They have no names, so there is no table of them.
    weights : bool
        Use the dataset's weights; without, every patch counts the same.
    overlap : float
        Least part of a patch's side that the next one covers again, 0 to below 1.
    licence : str
        Of the textures, for the model card.
    """

    data: Path
    select: Select = ALL
    weights: bool = True
    overlap: float = 0.0
    licence: str = "unknown"

    def __post_init__(self) -> None:
        cut.check_overlap(self.overlap)
        if self.select.match != "*":
            raise ValueError(f"select: match {self.select.match!r}, but patches of a dataset have no names")
        if self.select.table:
            raise ValueError(f"select: table {self.select.table!r}, but patches of a dataset have no names")

    def describe(self, frame: Frame) -> dict[str, Any]:
        dataset = open_dataset(self.data)
        return {
            "kind": "synthetic",
            "revision": cut.REVISION,
            # The bytes of a dataset are a function of its provenance.
            "content": _digest([dataset.image.shape, dataset.mpp, dataset.provenance]),
            "patches": _digest(self._chosen(dataset)),
            "weights": self.weights,
            "overlap": self.overlap,
            "patch": {"mpp": frame.mpp, "side": frame.side},
        }

    def statements(self) -> tuple[str, ...]:
        dataset = open_dataset(self.data)
        made = dataset.provenance
        return (
            f"{len(self._chosen(dataset))} synthetic patches by {made['method']!r} (seed {made['seed']}) from "
            f"{len(made['textures'])} textures, licence: {self.licence}",
        )

    def parts(self, frame: Frame, first: int) -> Iterator[PatchPool]:
        dataset = open_dataset(self.data)
        factor = dataset.mpp / frame.mpp
        size = cut.scaled_size(dataset.image.shape[1:3], factor)
        side = cut.common_side([size], frame.side)
        grid = cut.places("", size, side, self.overlap)
        chosen = [cut.Place(str(index), p.y, p.x) for index in self._chosen(dataset) for p in grid]

        def read(name: str) -> cut.Labelled:
            index = int(name)
            weight = float(np.asarray(dataset.weight[index])) if self.weights else 1.0
            labels = np.asarray(dataset.instances[index])
            return cut.rescale(np.asarray(dataset.image[index]), labels, factor, weight)

        return cut.parts(chosen[first:], read, side)

    def _chosen(self, dataset: PatchDataset) -> list[int]:
        return self.select.numbered(range(len(dataset)), self.data)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
