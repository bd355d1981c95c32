"""OME-Zarr metadata [1]_: written as version 0.5, read as 0.4 and 0.5.

Physical coordinates are those of pixel centres, with the centre of level 0's first pixel at the origin. A level
that is reduced ``d`` times starts half its pixel less half a level-0 pixel later, so it has a translation of
(d - 1) / 2 level-0 pixels; without it viewers show the levels shifted against each other.

References
----------
.. [1] Moore et al., OME-Zarr: a cloud-optimized bioimaging file format with international community support,
   Histochemistry and Cell Biology 160 (2023), DOI 10.1007/s00418-023-02209-1; https://ngff.openmicroscopy.org/0.5
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.errors import SlideError

VERSION = "0.5"
_READABLE = ("0.4", "0.5")
_EXPECTED = (
    "Expected: OME-Zarr 0.4 or 0.5 with one bright-field RGB image (uint8, three channels, one focal plane, "
    "one time point)."
)
_UM = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
}
_RGB = ("FF0000", "00FF00", "0000FF")


@dataclass(frozen=True)
class Multiscale:
    """What the metadata of one image say.

    Attributes
    ----------
    group : Path
        The image's folder; the arrays' paths are relative to it.
    axes : tuple of str
        Names in array order; always with ``y`` and ``x``, perhaps ``t``, ``c``, ``z``.
    paths : tuple of str
        The arrays, largest first.
    mpp_x, mpp_y : float or None
        Size of a level-0 pixel in µm; None where there is no unit.
    own : dict
        What wsiseg wrote about the image; empty in stores of others.
    series : int
        Number of images in the store; this is the first.
    """

    group: Path
    axes: tuple[str, ...]
    paths: tuple[str, ...]
    mpp_x: float | None
    mpp_y: float | None
    own: dict[str, Any]
    series: int = 1


def image_attributes(
    name: str, sizes: Sequence[tuple[str, float]], mpp: float | None, own: dict[str, Any]
) -> dict[str, Any]:
    """The attributes of an image group.

    Parameters
    ----------
    name : str
    sizes : sequence of (path, downsample)
        The arrays, largest first.
    mpp : float or None
        Microns per level-0 pixel; None writes pixels without a unit.
    own : dict
        JSON that goes under ``wsiseg``.
    """
    unit = {"unit": "micrometer"} if mpp is not None else {}
    pixel = 1.0 if mpp is None else mpp
    datasets = []
    for path, downsample in sizes:
        scale, offset = pixel * downsample, pixel * (downsample - 1) / 2
        datasets.append(
            {
                "path": path,
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, scale, scale]},
                    {"type": "translation", "translation": [0.0, offset, offset]},
                ],
            }
        )
    multiscale = {
        "name": name,
        "axes": [
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space", **unit},
            {"name": "x", "type": "space", **unit},
        ],
        "datasets": datasets,
        "type": "mean",
        "metadata": {
            "description": "The scanner's levels as they are, then the mean of 2 × 2 pixels, rounded half up."
        },
    }
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {
            "label": label,
            "color": color,
            "window": window,
            "active": True,
            "coefficient": 1,
            "family": "linear",
            "inverted": False,
        }
        for label, color in zip(("Red", "Green", "Blue"), _RGB, strict=True)
    ]
    omero = {"name": name, "channels": channels, "rdefs": {"defaultT": 0, "defaultZ": 0, "model": "color"}}
    return {"ome": {"version": VERSION, "multiscales": [multiscale], "omero": omero}, "wsiseg": own}


def group_metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    """The content of a zarr v3 group's ``zarr.json``."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def is_omezarr(path: str | Path) -> bool:
    """Whether ``path`` is a folder with zarr group metadata."""
    return any((Path(path) / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def read_multiscale(path: Path) -> Multiscale:
    """The first image of a store.

    Raises
    ------
    SlideError
        It is no OME-Zarr, of another version, or not a bright-field image.
    """
    attributes = _attributes(path)
    if attributes is None:
        raise SlideError(f"{path.name}: is a folder without zarr metadata (zarr.json or .zattrs).\n{_EXPECTED}")
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, dict):
        raise SlideError(f"{path.name}: its OME metadata are not an object.\n{_EXPECTED}")
    if "multiscales" not in ome:
        if "plate" in ome or "well" in ome:
            raise SlideError(
                f"{path.name}: is a plate of many images. Give the folder of one image in it.\n{_EXPECTED}"
            )
        if "bioformats2raw.layout" in ome:
            first = read_multiscale(path / "0")
            series = sum(is_omezarr(entry) for entry in path.iterdir() if entry.name.isdecimal())
            return Multiscale(first.group, first.axes, first.paths, first.mpp_x, first.mpp_y, first.own, series)
        raise SlideError(f"{path.name}: is zarr without 'multiscales' metadata.\n{_EXPECTED}")
    try:
        return _parse(path, ome, attributes.get("wsiseg", {}))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise SlideError(
            f"{path.name}: its OME-Zarr metadata are damaged ({type(error).__name__}: {error}).\n{_EXPECTED}"
        ) from error


def _attributes(group: Path) -> dict[str, Any] | None:
    """The attributes of a group of zarr v3 or v2; None where there is no group."""
    for name in ("zarr.json", ".zattrs", ".zgroup"):
        if not (group / name).is_file():
            continue
        try:
            content = json.loads((group / name).read_text(encoding="utf-8"))
            attributes = content.get("attributes", {}) if name == "zarr.json" else content
            if not isinstance(attributes, dict):
                raise ValueError("the attributes are not an object")
        except (OSError, ValueError, AttributeError) as error:
            raise SlideError(
                f"{group.name}: its {name} cannot be read ({error}). Copy the whole folder again.\n{_EXPECTED}"
            ) from error
        return attributes
    return None


def _parse(group: Path, ome: dict[str, Any], own: dict[str, Any]) -> Multiscale:
    multiscale = ome["multiscales"][0]
    version = str(ome.get("version", multiscale.get("version", "unknown")))
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in multiscale.get("axes", [])]
    if version not in _READABLE or not axes:
        raise SlideError(f"{group.name}: is OME-Zarr of version {version}.\n{_EXPECTED}")
    names = tuple(str(axis["name"]) for axis in axes)
    if not {"y", "x"} <= set(names) <= set("tczyx") or "c" not in names:
        raise SlideError(f"{group.name}: has the axes {', '.join(names)}.\n{_EXPECTED}")
    _check_channels(group, ome)
    datasets = multiscale["datasets"]
    scale = _scale(datasets[0], len(names))
    common = _scale(multiscale, len(names))
    sizes = {name: a * b for name, a, b in zip(names, scale, common, strict=True)}
    units = {axis["name"]: axis.get("unit") for axis in axes}
    return Multiscale(
        group=group,
        axes=names,
        paths=tuple(str(dataset["path"]) for dataset in datasets),
        mpp_x=_microns(sizes["x"], units["x"]),
        mpp_y=_microns(sizes["y"], units["y"]),
        own=own if isinstance(own, dict) else {},
    )


def _check_channels(group: Path, ome: dict[str, Any]) -> None:
    """Refuse an image whose three channels are declared as something else than red, green and blue."""
    channels = (ome.get("omero") or {}).get("channels") or []
    colors = tuple(str(channel.get("color", "")).upper().lstrip("#")[:6] for channel in channels)
    if len(set(colors)) > 1 and colors != _RGB:
        labels = ", ".join(str(channel.get("label", "?")) for channel in channels)
        raise SlideError(
            f"{group.name}: its channels are {labels} in the colours {', '.join(colors)}, not red, green, blue.\n"
            f"{_EXPECTED}"
        )


def _scale(entry: dict[str, Any], axes: int) -> list[float]:
    for transformation in entry.get("coordinateTransformations", []):
        if transformation["type"] == "scale":
            scale = [float(value) for value in transformation["scale"]]
            if len(scale) != axes:
                raise ValueError(f"a scale of {len(scale)} numbers for {axes} axes")
            return scale
    return [1.0] * axes


def _microns(size: float, unit: str | None) -> float | None:
    return size * _UM[unit] if unit in _UM else None
