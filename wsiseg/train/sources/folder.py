"""``kind = "folder"``: images and label images, matched by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.core.names import IMAGE_SUFFIXES
from wsiseg.core.select import ALL, Select
from wsiseg.errors import UsageError
from wsiseg.interop.labelimage import SUFFIXES as LABEL_SUFFIXES
from wsiseg.interop.labelimage import read_labels
from wsiseg.slide import MppTable, read_mpp_table
from wsiseg.train.patches import PatchPool
from wsiseg.train.source import Frame
from wsiseg.train.sources import cut, files

Pairs = Mapping[str, tuple[Path, Path]]


@dataclass(frozen=True)
class FolderSource:
    """Annotated images, cut into patches on a grid.

    Attributes
    ----------
    data : Path
        Folder that holds the two below.
    images, labels : str
        Folders in ``data``; ``.`` is ``data`` itself. Images: PNG, WebP, TIFF, JPEG, BMP, ``.npy``. Labels: PNG of
        8 or 16 bits, TIFF, ``.npy``, ``.mat`` with ``inst_map``: 0 is background, every other value a nucleus.
    image_ending, label_ending : str
        What follows the common name, before the suffix: ``_crop`` and ``_labeled_mask_corrected``.
    mask : bool
        Labels say only what is foreground: each of its 4-connected components becomes a nucleus.
    mpp : float or None
        Microns per pixel of all images. Of this, ``mpp_table`` and ``nucleus_um`` exactly one is given.
    mpp_table : str
        CSV in ``data`` with the columns slide (the image's name) and mpp.
    nucleus_um : float or None
        The median equivalent diameter that nuclei have in reality, in µm: where the scale of images is not known,
        each is brought to that. An image without nuclei takes the median of the others' mpp.
    select : Select
        Which images, in the order of their names.
    overlap : float
        Least part of a patch's side that the next one covers again, 0 to below 1.
    licence : str
        Of the data, for the model card.
    """

    data: Path
    images: str = "images"
    labels: str = "labels"
    image_ending: str = ""
    label_ending: str = ""
    mask: bool = False
    mpp: float | None = None
    mpp_table: str = ""
    nucleus_um: float | None = None
    select: Select = ALL
    overlap: float = 0.0
    licence: str = "unknown"

    def __post_init__(self) -> None:
        cut.check_overlap(self.overlap)
        if self.images == self.labels and self.image_ending == self.label_ending:
            raise ValueError("images and labels are the same files; expected two folders, or a label_ending")
        given = [self.mpp is not None, bool(self.mpp_table), self.nucleus_um is not None]
        if sum(given) != 1:
            raise ValueError(f"{sum(given)} of mpp, mpp_table and nucleus_um are given; expected exactly one")
        for name, value in (("mpp", self.mpp), ("nucleus_um", self.nucleus_um)):
            if value is not None and not 0.01 <= value <= 100:
                raise ValueError(f"{name} {value}: expected microns, from 0.01 to 100")

    def describe(self, frame: Frame) -> dict[str, Any]:
        return {
            "kind": "folder",
            "revision": cut.REVISION,
            "content": files.digest_files(self.pairs().items()),
            "mpp": dict(self._table().entries) if self.mpp_table else self.mpp,
            "nucleus_um": self.nucleus_um,
            "mask": self.mask,
            "overlap": self.overlap,
            "patch": {"mpp": frame.mpp, "side": frame.side},
        }

    def statements(self) -> tuple[str, ...]:
        pairs = self.pairs()
        return (f"{len(pairs)} annotated images of {self.data.name}, licence: {self.licence}",)

    def parts(self, frame: Frame, first: int) -> Iterator[PatchPool]:
        pairs = self.pairs()
        factors = {name: mpp / frame.mpp for name, mpp in self._scales(pairs).items()}
        sizes = {
            name: cut.scaled_size(files.image_size(image), factors[name]) for name, (image, _) in pairs.items()
        }
        side = cut.common_side(list(sizes.values()), frame.side)
        chosen = [place for name, size in sizes.items() for place in cut.places(name, size, side, self.overlap)]

        def read(name: str) -> cut.Labelled:
            image_path, label_path = pairs[name]
            image, labels = files.read_image(image_path), self._read_labels(label_path)
            if image.shape[:2] != labels.shape:
                raise UsageError(
                    f"{label_path}: labels of {labels.shape[1]} × {labels.shape[0]} pixels for an image of "
                    f"{image.shape[1]} × {image.shape[0]} ({image_path}); expected one label for each pixel"
                )
            return cut.rescale(image, labels, factors[name])

        return cut.parts(chosen[first:], read, side)

    def pairs(self) -> Pairs:
        """Image and labels of each name that is meant.

        Raises
        ------
        UsageError
            Nothing is there, or an image has no labels.
        """
        images = files.find_files(self.data / self.images, IMAGE_SUFFIXES, self.image_ending)
        if self.data / self.images == self.data / self.labels:  # an image's name may end as all labels do
            images = {n: p for n, p in images.items() if not n.endswith(self.label_ending or "\0")}
        images = self.select.named(images, self.data)
        labels = files.find_files(self.data / self.labels, sorted(LABEL_SUFFIXES), self.label_ending)
        return files.match(images, labels)

    def _table(self) -> MppTable:
        return read_mpp_table(self.data / self.mpp_table)

    def _scales(self, pairs: Pairs) -> dict[str, float]:
        """Microns per pixel of each image."""
        if self.mpp is not None:
            return dict.fromkeys(pairs, self.mpp)
        if self.mpp_table:
            found = {name: self._table().lookup(path) for name, (path, _) in pairs.items()}
            missing = [name for name, mpp in found.items() if mpp is None]
            if missing:
                raise UsageError(f"{self.data / self.mpp_table}: no mpp of {missing[0]} ({len(missing)} missing)")
            return {name: mpp.value for name, mpp in found.items() if mpp is not None}
        assert self.nucleus_um is not None
        diameters = {name: median_diameter(self._read_labels(path)) for name, (_, path) in pairs.items()}
        known = [diameter for diameter in diameters.values() if diameter is not None]
        if not known:
            raise UsageError(f"{self.data}: no image has a nucleus; without one nucleus_um says nothing, give mpp")
        typical = float(np.median(known))
        return {name: self.nucleus_um / (diameter or typical) for name, diameter in diameters.items()}

    def _read_labels(self, path: Path) -> npt.NDArray[np.int32]:
        labels = read_labels(path)
        if self.mask:
            return ndimage.label(labels)[0].astype(np.int32)
        if labels.size and int(labels.max()) > labels.size:  # ids of 32 bits, for example colours
            labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape) + int(labels.min() > 0)
        return labels.astype(np.int32)


def median_diameter(labels: npt.NDArray[np.integer]) -> float | None:
    """Median equivalent diameter of the instances in (h, w), in pixels; None where there is none."""
    area = np.bincount(labels.ravel())[1:]
    area = area[area > 0]
    return float(np.median(np.sqrt(4 * area / np.pi))) if area.size else None
