"""``maps.zarr``: the nuclei as a label pyramid, the tissue and the lost area, in OME-Zarr 0.5.

    maps.zarr/0 1 …             uint8 (c, y, x), the slide's overview: an image that viewers show below the labels
      labels/nuclei/0 1 2 …     int32, the value is the nucleus's id; level 0 on the run's lattice
      labels/tissue/0 …         uint8, 1 where there is tissue
      labels/lost/0 …           uint8, 1 where pixels could not be read or were given up
      labels/artefacts/0 …      uint16, the kinds of artefacts as bits; the first of them gives the colour

The frame of every array is that of the slide converted to OME-Zarr without a translation [1]_: micrometres, the
origin at the centre of the slide's level-0 pixel (0, 0). A pixel that is s µm wide therefore has its first centre
at (s − mpp)/2, and that is the translation.

The labels are written shard by shard, in any order and by any worker: a shard of level 0 holds 4 × 4 chunks, and
the shards of levels 1 and 2 that cover the same ground hold 2 × 2 and one, so that each task writes its part of
three levels and reads none back. What is left of the pyramid is a sixteenth of the pixels.

NGFF asks for as many levels in an image as in each of its labels, so the overview and the masks are halved as often
as the nuclei are, down to a few pixels.

References
----------
.. [1] Moore et al., OME-Zarr: a cloud-optimized bioimaging file format with international community support,
   Histochemistry and Cell Biology 160 (2023), DOI 10.1007/s00418-023-02209-1; NGFF 0.5,
   https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BytesCodec, ZstdCodec

from wsiseg.artefacts.kinds import COLOURS, KINDS, names_of
from wsiseg.artefacts.map import ArtefactMap
from wsiseg.core import ngff
from wsiseg.core.environment import environment_faults
from wsiseg.core.geometry import Box, Scale, Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize
from wsiseg.errors import UsageError
from wsiseg.version import __version__

CHUNK_PX = 1024
SHARD_PX = 4096
_SHARDED_LEVELS = 3  # 4096 halved down to one chunk
_TOP_PX = 1024  # the coarsest level is no longer than this
_MASK_CHUNK_PX = 1024
_ARTEFACT_OPACITY = 160
_COLORS: Mapping[str, Mapping[int, Sequence[int]]] = {
    "tissue": {1: (31, 119, 180, 96)},
    "lost": {1: (214, 39, 40, 160)},
}


@dataclass(frozen=True)
class ShardSummary:
    """What a task wrote: how many nuclei it drew and how many lattice pixels they cover."""

    nuclei: int
    covered_px: int


def create_labels(path: Path, size: tuple[int, int], scale: Scale, mpp: float) -> None:
    """Make the empty label pyramid; what an earlier attempt left of the labels is removed.

    Parameters
    ----------
    path : Path
        ``maps.zarr``.
    size : (int, int)
        Width and height of the slide in lattice pixels.
    scale : Scale
        The run's lattice.
    mpp : float
        Of level 0.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    width, height = size
    with environment_faults(path):
        shutil.rmtree(path / "labels" / "nuclei", ignore_errors=True)
        depth = _own_depth(width, height)
        group = _label_group(path, "nuclei", depth, scale, mpp, {})
        for level, (h, w) in enumerate(_pyramid_shapes(height, width, depth)):
            _create_array(group, str(level), (h, w), np.dtype(np.int32), _shard_side(level), CHUNK_PX)


def shard_windows(size: tuple[int, int], areas: Iterable[Window]) -> tuple[Window, ...]:
    """The shards of level 0 that meet any of these areas, by rows and columns, clipped to the slide.

    Parameters
    ----------
    size : (int, int)
        Width and height of the slide in lattice pixels.
    areas : iterable of Window
        In lattice pixels; they may reach beyond the slide.
    """
    width, height = size
    columns, rows = -(-width // SHARD_PX), -(-height // SHARD_PX)
    touched = np.zeros((rows, columns), dtype=bool)
    whole = Window(0, 0, width, height)
    for area in areas:
        inside = area.intersection(whole)
        if inside.area:
            rows_met = slice(inside.y // SHARD_PX, (inside.y1 - 1) // SHARD_PX + 1)
            touched[rows_met, inside.x // SHARD_PX : (inside.x1 - 1) // SHARD_PX + 1] = True
    found = np.argwhere(touched).tolist()
    return tuple(Window(c * SHARD_PX, r * SHARD_PX, SHARD_PX, SHARD_PX).intersection(whole) for r, c in found)


def write_label_shard(path: Path, window: Window, scale: Scale, nuclei: Nuclei) -> ShardSummary:
    """Draw the nuclei of one shard and write it with its share of levels 1 and 2.

    A shard is written whole by its one task, so that tasks may run at the same time, in any order, and again.

    Parameters
    ----------
    path : Path
        ``maps.zarr``.
    window : Window
        Of :func:`shard_windows`.
    scale : Scale
        The run's lattice.
    nuclei : Nuclei
        Those whose bounds meet the window, in level-0 coordinates, with the column ``id``.
    """
    image = draw_labels(nuclei, window, scale)
    group = zarr.open_group(str(path / "labels" / "nuclei"), mode="r+")
    with environment_faults(path):
        part = image
        for level in range(min(_SHARDED_LEVELS, _array_count(group))):
            if level:
                part = part[::2, ::2]
            y, x = window.y >> level, window.x >> level
            _array(group, level)[y : y + part.shape[0], x : x + part.shape[1]] = part
    return ShardSummary(len(nuclei), int(np.count_nonzero(image)))


def draw_labels(nuclei: Nuclei, window: Window, scale: Scale) -> npt.NDArray[np.int32]:
    """The ids of ``nuclei``, in level-0 coordinates, on the lattice pixels of ``window``; int32 (h, w)."""
    on_lattice = Nuclei(scale.from_level0(nuclei.vertices), nuclei.offsets, nuclei.columns)
    ids = nuclei.columns["id"].astype(np.int32)
    return rasterize(on_lattice, ids, window.shape, (float(window.x), float(window.y)))


def write_label_levels(path: Path) -> None:
    """Write the levels above those that the shards' tasks have written, each from the one below."""
    group = zarr.open_group(str(path / "labels" / "nuclei"), mode="r+")
    with environment_faults(path):
        for level in range(_SHARDED_LEVELS, _array_count(group)):
            below, above = _array(group, level - 1), _array(group, level)
            for y in range(0, above.shape[0], 4 * CHUNK_PX):
                for x in range(0, above.shape[1], 4 * CHUNK_PX):
                    rows = slice(y, min(y + 4 * CHUNK_PX, above.shape[0]))
                    columns = slice(x, min(x + 4 * CHUNK_PX, above.shape[1]))
                    block = np.asarray(below[2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop])
                    above[rows, columns] = block[::2, ::2]


def write_masks(
    path: Path,
    tissue: npt.NDArray[np.bool_],
    scale: Scale,
    mpp: float,
    lost: Iterable[Sequence[Any]] = (),
) -> None:
    """Write ``labels/tissue`` and ``labels/lost``.

    Parameters
    ----------
    path : Path
        ``maps.zarr``.
    tissue : bool array (H, W)
    scale : Scale
        Its lattice.
    mpp : float
        Of level 0.
    lost : iterable of (x0, y0, x1, y1, …)
        Level-0 boxes, as in ``slide.json``; a mask pixel that a box touches counts as lost.
    """
    masks = {"tissue": tissue.astype(np.uint8), "lost": lost_mask(lost, tissue.shape, scale)}
    with environment_faults(path):
        for name, mask in masks.items():
            _write_mask(path, name, mask, scale, mpp, _COLORS[name])


def write_artefacts(path: Path, artefacts: ArtefactMap, mpp: float) -> None:
    """Write ``labels/artefacts``.

    Parameters
    ----------
    path : Path
        ``maps.zarr``.
    artefacts : ArtefactMap
    mpp : float
        Of level 0.
    """
    present = [int(value) for value in np.unique(artefacts.bits) if value]
    colors = {value: (*COLOURS[names_of(value)[0]], _ARTEFACT_OPACITY) for value in present}
    with environment_faults(path):
        group = _write_mask(path, "artefacts", artefacts.bits, artefacts.scale, mpp, colors)
        about: Any = group.attrs["wsiseg"]
        group.attrs.update({"wsiseg": {**about, "kinds": list(KINDS)}})


def _write_mask(
    path: Path,
    name: str,
    mask: npt.NDArray[np.unsignedinteger],
    scale: Scale,
    mpp: float,
    colors: Mapping[int, Sequence[int]],
) -> zarr.Group:
    shutil.rmtree(path / "labels" / name, ignore_errors=True)
    height, width = mask.shape
    depth = _depth(path, width, height)
    group = _label_group(path, name, depth, scale, mpp, colors)
    for level, shape in enumerate(_pyramid_shapes(height, width, depth)):
        array = _create_array(group, str(level), shape, mask.dtype, None, _MASK_CHUNK_PX)
        step = 2**level
        array[:] = mask[::step, ::step]
    return group


def write_overview(
    path: Path,
    image: npt.NDArray[np.uint8],
    scale: Scale,
    mpp: float,
    *,
    label_size: tuple[int, int] | None = None,
) -> None:
    """Make ``maps.zarr`` an image, which viewers show below the labels.

    Parameters
    ----------
    path : Path
        ``maps.zarr``.
    image : uint8 array (h, w, 3)
    scale : Scale
        Its lattice.
    mpp : float
        Of level 0.
    label_size : (int, int), optional
        Width and height of the slide in lattice pixels, as :func:`create_labels` gets them: the image then has as
        many levels as the labels will have.
    """
    with environment_faults(path):
        group = _root(path)
        depth = _depth(path, *(label_size or (image.shape[1], image.shape[0])))
        group.attrs.update({"ome": ngff.image_metadata("overview", _halved(scale, depth), mpp)})
        for level in range(depth):
            pixels = np.moveaxis(image[:: 2**level, :: 2**level], -1, 0)
            array = group.create_array(
                str(level),
                shape=pixels.shape,
                chunks=(1, _MASK_CHUNK_PX, _MASK_CHUNK_PX),
                dtype=pixels.dtype,
                serializer=BytesCodec(),
                compressors=[ZstdCodec(level=1)],
                dimension_names=["c", "y", "x"],
                overwrite=True,
            )
            array[:] = pixels


def lost_mask(boxes: Iterable[Sequence[Any]], shape: tuple[int, ...], scale: Scale) -> npt.NDArray[np.uint8]:
    """1 where a pixel of the mask (H, W) is touched by a level-0 box (x0, y0, x1, y1, …)."""
    mask = np.zeros(shape[:2], dtype=np.uint8)
    whole = Window(0, 0, shape[1], shape[0])
    for box in boxes:
        x0, y0, x1, y1 = (float(value) for value in box[:4])
        mask[scale.window(Box(x0, y0, x1, y1)).intersection(whole).within(whole)] = 1
    return mask


def read_label_region(
    path: Path, box: Box, *, name: str = "nuclei", level: int = 0
) -> tuple[npt.NDArray[np.integer], Window, Scale]:
    """The labels of a level-0 box.

    Returns
    -------
    labels : integer array (h, w)
    window : Window
        The pixels that ``labels`` holds: the smallest window over the box, clipped to the slide.
    scale : Scale
        The lattice of ``window``.

    Raises
    ------
    UsageError
        No such map.
    """
    try:
        group = zarr.open_group(str(Path(path) / "labels" / name), mode="r")
        array = _array(group, level)
        downsample = float(dict(group.attrs)["wsiseg"]["downsample"])  # type: ignore[index, call-overload, arg-type]
    except (FileNotFoundError, KeyError) as error:
        raise UsageError(f"{path} has no label map {name!r} of level {level}; expected a maps.zarr") from error
    scale = Scale(downsample * 2**level)
    height, width = array.shape
    window = scale.window(box).intersection(Window(0, 0, width, height))
    return np.asarray(array[window.y : window.y1, window.x : window.x1]), window, scale


def _pyramid_shapes(height: int, width: int, depth: int) -> list[tuple[int, int]]:
    """Shapes of all levels: every second pixel from the first, so that sizes round up."""
    return [(-(-height // 2**k), -(-width // 2**k)) for k in range(depth)]


def _own_depth(width: int, height: int) -> int:
    depth = 1
    while -(-max(width, height) // 2 ** (depth - 1)) > _TOP_PX:
        depth += 1
    return depth


def _depth(path: Path, width: int, height: int) -> int:
    """As many levels as the nuclei have, or what the size asks for where there are none."""
    if not (path / "labels" / "nuclei" / "zarr.json").exists():
        return _own_depth(width, height)
    return _array_count(zarr.open_group(str(path / "labels" / "nuclei"), mode="r"))


def _shard_side(level: int) -> int | None:
    return SHARD_PX >> level if level < _SHARDED_LEVELS - 1 else None


def _root(path: Path) -> zarr.Group:
    return zarr.open_group(str(path), mode="a", zarr_format=3)


def _label_group(
    path: Path, name: str, depth: int, scale: Scale, mpp: float, colors: Mapping[int, Sequence[int]]
) -> zarr.Group:
    labels = _root(path).require_group("labels")
    labels.attrs.update({"ome": ngff.labels_metadata({*(key for key, _ in labels.groups()), name})})
    group = labels.require_group(name)
    ome = ngff.label_metadata(name, _halved(scale, depth), mpp, colors)
    group.attrs.update({"ome": ome, "wsiseg": {"downsample": scale.downsample, "mpp": mpp, "version": __version__}})
    return group


def _halved(scale: Scale, depth: int) -> list[tuple[str, float]]:
    return [(str(level), scale.downsample * 2**level) for level in range(depth)]


def _create_array(
    group: zarr.Group, name: str, shape: tuple[int, int], dtype: np.dtype[Any], shard: int | None, chunk: int
) -> zarr.Array:
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(chunk, chunk),
        shards=(shard, shard) if shard else None,
        serializer=BytesCodec(),
        compressors=[ZstdCodec(level=1)],
        fill_value=0,
        config={"write_empty_chunks": False},
        dimension_names=["y", "x"],
        overwrite=True,
    )


def _array_count(group: zarr.Group) -> int:
    return len(list(group.array_keys()))


def _array(group: zarr.Group, level: int) -> zarr.Array:
    found = group[str(level)]
    assert isinstance(found, zarr.Array)
    return found
