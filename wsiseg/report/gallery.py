"""``pictures/`` of a slide's results: what the report shows of the whole slide."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsiseg.artefacts.map import ArtefactMap
from wsiseg.core.atomic import write_bytes
from wsiseg.core.environment import environment_faults
from wsiseg.core.geometry import Scale
from wsiseg.report.artefactmap import draw_artefacts
from wsiseg.report.examples import choose_examples
from wsiseg.report.qualitymap import draw_quality
from wsiseg.report.thumbnail import thumbnail_size
from wsiseg.results.folder import PICTURES

OVERVIEW, QUALITY, ARTEFACTS = "overview.jpg", "quality.jpg", "artefacts.jpg"
"""The whole slide: plain, with its judged patches, with its artefacts; all of one size."""
THUMBNAIL = "thumbnail.jpg"
"""``thumbnail.png`` as the table of slides shows it."""
MAP_PX, THUMBNAIL_PX = 800, 640
"""Their longer sides."""

_JPEG_QUALITY = 80


def write_gallery(
    result: Path,
    overview: npt.NDArray[np.uint8],
    scale: Scale,
    artefacts: ArtefactMap,
    verdicts: Mapping[str, npt.NDArray[np.generic]],
) -> None:
    """Write the pictures of a slide into its results folder; what was there under their names is replaced.

    Parameters
    ----------
    result : Path
        The slide's results; ``nuclei.parquet`` and ``thumbnail.png`` are there.
    overview : uint8 array (H, W, 3)
        The whole slide on the lattice ``scale``.
    verdicts : mapping of str to array (P,)
        The columns of ``patches.parquet``.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    folder = result / PICTURES
    with environment_faults(folder):
        folder.mkdir(exist_ok=True)
    with Image.open(result / "thumbnail.png") as thumbnail:
        small = thumbnail.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC, reducing_gap=2.0)
    write_jpeg(folder / THUMBNAIL, small)
    examples = choose_examples(verdicts)
    plain = Image.fromarray(overview).resize(thumbnail_size(overview, scale, MAP_PX)[0], Image.Resampling.BOX)
    write_jpeg(folder / OVERVIEW, plain)
    write_jpeg(folder / QUALITY, draw_quality(overview, scale, verdicts, examples, MAP_PX))
    write_jpeg(folder / ARTEFACTS, draw_artefacts(overview, scale, artefacts, MAP_PX))


def write_jpeg(path: Path, image: Image.Image) -> None:
    """Write a picture as JPEG, atomically."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    write_bytes(path, buffer.getvalue())
