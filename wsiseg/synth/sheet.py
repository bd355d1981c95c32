"""Contact sheets: patches of a dataset to look at, each beside itself with its instances outlined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.synth.dataset import PatchDataset

_OUTLINE = (0, 255, 120)


def contact_sheet(dataset: PatchDataset, count: int = 24, columns: int = 4) -> npt.NDArray[np.uint8]:
    """``count`` patches evenly spread over the dataset, in rows of ``columns``.

    Returns
    -------
    uint8 array (H, W, 3)
        Each patch twice, plain and with outlines; its index and weight in the corner.
    """
    count = min(count, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    cells = [_cell(dataset, int(index)) for index in chosen]
    columns = min(columns, count)
    cells += [np.full_like(cells[0], 255)] * (-count % columns)
    rows = [np.concatenate(cells[k : k + columns], axis=1) for k in range(0, len(cells), columns)]
    return np.concatenate(rows)


def write_sheet(dataset: PatchDataset, path: Path, count: int = 24) -> None:
    """Write :func:`contact_sheet` as PNG."""
    from PIL import Image

    from wsiseg.core.environment import environment_faults

    with environment_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(dataset, count)).save(path, "PNG")


def outlined(image: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """``image`` (h, w, 3) with the inner rim of each instance of ``labels`` (h, w) drawn into a copy."""
    drawn = image.copy()
    drawn[(labels > 0) & (ndimage.grey_erosion(labels, size=(3, 3), mode="nearest") != labels)] = _OUTLINE
    return drawn


def _cell(dataset: PatchDataset, index: int) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageDraw

    image, labels = np.asarray(dataset.image[index]), np.asarray(dataset.instances[index])
    frame = [(2, 2), (2, 2), (0, 0)]
    pair = np.concatenate([image, outlined(image, labels)], axis=1)
    both = Image.fromarray(np.pad(pair, frame, constant_values=255))
    text = f"{index}  w {float(np.asarray(dataset.weight[index])):.2f}"
    ImageDraw.Draw(both).text((5, 4), text, fill=(0, 0, 0), stroke_width=2, stroke_fill=(255, 255, 255))
    return np.asarray(both)
