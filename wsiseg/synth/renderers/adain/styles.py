"""Annotated tiles, in whose style masks are painted, and masks as images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.errors import UsageError
from wsiseg.interop.labelimage import read_labels
from wsiseg.synth.parts import crop
from wsiseg.synth.samplers.blobs.contours import labelled
from wsiseg.synth.samplers.blobs.sampler import mask_files
from wsiseg.synth.textures import load_images


@dataclass(frozen=True, eq=False)
class Style:
    """A real image, uint8 (h, w, 3), and its instances, int32 (h, w)."""

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


def load_styles(images: Path, masks: Path, count: int = 0) -> list[Style]:
    """Images with labels of the same name; the first ``count`` label images, or all.

    Raises
    ------
    UsageError
        A label image has no image, or one of another size.
    """
    if not images.is_dir():
        raise UsageError(f"{images}: there is no such folder of images")
    known = dict(load_images(images))
    styles = []
    for path in mask_files(masks)[: count or None]:
        if path.stem not in known:
            raise UsageError(f"{path}: no image {path.stem}.png in {images}; images and labels have the same names")
        image, labels = known[path.stem], labelled(read_labels(path))
        if image.shape[:2] != labels.shape:
            raise UsageError(f"{path}: {labels.shape} labels for an image of {image.shape[:2]}; expected one size")
        styles.append(Style(image, labels))
    return styles


def tiles_of(styles: list[Style], side: int) -> list[tuple[npt.NDArray[np.uint8], int]]:
    """Tiles of ``side``² of all images, uint8 (side, side, 3), with the number of nuclei in each."""
    found = []
    for style in styles:
        height, width = style.labels.shape
        for row in range(0, max(height - side, 0) + 1, side):
            for column in range(0, max(width - side, 0) + 1, side):
                labels = crop(style.labels, (row, column), side)
                found.append((crop(style.image, (row, column), side), len(np.unique(labels[labels > 0]))))
    return found


def content_of(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """A mask as an image: nuclei black, all else white; uint8 (h, w, 3).

    Normalisation keeps what is bright bright: white nuclei, as in fluorescence, would be the palest of a patch.
    """
    return np.repeat(np.where(labels > 0, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
