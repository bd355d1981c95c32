"""OME-Zarr metadata (NGFF) [1]_: written as version 0.5, read as 0.4 and 0.5.

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
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsiseg.errors import SlideError, shown

VERSION = "0.5"
_READABLE = ("0.4", "0.5")
_EXPECTED = "Expected: OME-Zarr 0.4 or 0.5 with one bright-field RGB image (uint8, three channels)."
_METRES = {"pico": 1e-6, "nano": 1e-3, "micro": 1.0, "milli": 1e3, "centi": 1e4, "deci": 1e5, "": 1e6}
_UM = {
    **{f"{prefix}{metre}": um for prefix, um in _METRES.items() for metre in ("meter", "metre")},
    "angstrom": 1e-4, "nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6,
    "inch": 25400.0, "foot": 304800.0,
}  # fmt: skip
_RGB = ("FF0000", "00FF00", "0000FF")
_COLOUR_NAMES = (("red", "r"), ("green", "g"), ("blue", "b"))
_UNNAMED = re.compile(r"(channel|chan|ch|c|rgb|band|sample)?[\s_:#.-]*[\d\s:]*")
_METADATA_BYTES = 64 << 20


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
    mpp_problem : str
        Why they are None although a size is given; else ``""``.
    channels : tuple of int
        Where red, green and blue are along ``c``.
    own : dict
        What wsiseg wrote about the image; empty in stores of others.
    series : int
        Number of images in the store; this is the first.
    notes : tuple of str
        What else the metadata hold and is not read.
    """

    group: Path
    axes: tuple[str, ...]
    paths: tuple[str, ...]
    mpp_x: float | None
    mpp_y: float | None
    own: dict[str, Any]
    mpp_problem: str = ""
    channels: tuple[int, ...] = (0, 1, 2)
    series: int = 1
    notes: tuple[str, ...] = ()


def image_metadata(
    name: str, levels: Sequence[tuple[str, float]], mpp: float | None, reduced: str = "nearest", how: str = ""
) -> dict[str, Any]:
    """The ``ome`` attribute of a group that holds a bright-field image, uint8 (c, y, x).

    Parameters
    ----------
    name : str
    levels : sequence of (path, downsample)
        The arrays, largest first; level-0 pixels per pixel of each.
    mpp : float or None
        Microns per level-0 pixel; None writes pixels without a unit.
    reduced, how : str
        By which method an array is made from the one before it: a word, and a sentence if it needs one.
    """
    channels = [
        {
            "label": label,
            "color": color,
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
            "active": True,
            "coefficient": 1,
            "family": "linear",
            "inverted": False,
        }
        for label, color in zip(("Red", "Green", "Blue"), _RGB, strict=True)
    ]
    omero = {"name": name, "channels": channels, "rdefs": {"defaultT": 0, "defaultZ": 0, "model": "color"}}
    axes = [{"name": "c", "type": "channel"}, *_plane(mpp)]
    multiscale = _multiscale(name, axes, levels, mpp) | {"type": reduced}
    if how:
        multiscale["metadata"] = {"description": how}
    return {"version": VERSION, "multiscales": [multiscale], "omero": omero}


def label_metadata(
    name: str, levels: Sequence[tuple[str, float]], mpp: float, colors: Mapping[int, Sequence[int]]
) -> dict[str, Any]:
    """The ``ome`` attribute of a group ``labels/NAME`` of an image: integers (y, x).

    Parameters
    ----------
    name, levels, mpp
        As of :func:`image_metadata`.
    colors : mapping of a label to red, green, blue and opacity, 0 to 255
    """
    label: dict[str, Any] = {"version": VERSION, "source": {"image": "../../"}}
    if colors:
        label["colors"] = [{"label-value": value, "rgba": list(rgba)} for value, rgba in colors.items()]
    multiscale = _multiscale(name, _plane(mpp), levels, mpp) | {"type": "nearest"}
    return {"version": VERSION, "multiscales": [multiscale], "image-label": label}


def labels_metadata(names: Iterable[str]) -> dict[str, Any]:
    """The ``ome`` attribute of a group ``labels``."""
    return {"version": VERSION, "labels": sorted(names)}


def _plane(mpp: float | None) -> list[dict[str, str]]:
    unit = {"unit": "micrometer"} if mpp is not None else {}
    return [{"name": name, "type": "space", **unit} for name in ("y", "x")]


def _multiscale(
    name: str, axes: list[dict[str, str]], levels: Sequence[tuple[str, float]], mpp: float | None
) -> dict[str, Any]:
    pixel, others = 1.0 if mpp is None else mpp, len(axes) - 2
    datasets = []
    for path, downsample in levels:
        scale, offset = pixel * downsample, pixel * (downsample - 1) / 2
        transformations = [
            {"type": "scale", "scale": [1.0] * others + [scale, scale]},
            {"type": "translation", "translation": [0.0] * others + [offset, offset]},
        ]
        datasets.append({"path": path, "coordinateTransformations": transformations})
    return {"name": name, "axes": axes, "datasets": datasets}


def group_metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    """The content of a zarr v3 group's ``zarr.json``."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def is_omezarr(path: str | Path) -> bool:
    """Whether ``path`` is a folder with zarr group metadata."""
    return any((Path(path) / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def holds_images(path: Path) -> bool:
    """Whether a folder's metadata are those of an image or of several, whatever its name; damaged ones are none."""
    try:
        ome = _ome(path, _attributes(path) or {})
    except SlideError:
        return False
    return any(name in ome for name in ("multiscales", "bioformats2raw.layout", "plate", "well"))


def read_json(path: Path) -> Any:
    """What a metadata file holds. ValueError if it is none, too long or too deep; OSError if it cannot be read."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode) or state.st_size > _METADATA_BYTES:
        raise ValueError(f"no file of at most {_METADATA_BYTES >> 20} MiB")
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_multiscale(path: Path) -> Multiscale:
    """The first image of a store.

    Raises
    ------
    SlideError
        It is no OME-Zarr, of another version, not a bright-field image, or its metadata lead out of its folder.
    """
    attributes = _attributes(path)
    ome = _ome(path, attributes or {})
    if "bioformats2raw.layout" not in ome or "multiscales" in ome:
        return _read_image(path, attributes, ome)
    first = within(path, path, "0")
    inner = _attributes(first)
    image = _read_image(first, inner, _ome(first, inner or {}))
    series = sum(is_omezarr(entry) for entry in path.iterdir() if entry.name.isdecimal())
    note = (f"{series} images, of which the first, {first.name}, is read",) if series > 1 else ()
    return replace(image, series=series, notes=note + image.notes)


def within(store: Path, group: Path, path: object) -> Path:
    """The folder at ``path`` in a group. SlideError if that leads out of the group."""
    if isinstance(path, str) and path:
        try:
            place, whole = (group / path).resolve(), group.resolve()
        except (OSError, RuntimeError, ValueError):  # a link to itself, a name that is none
            place = whole = group
        if place != whole and place.is_relative_to(whole):
            return group / path
    raise SlideError(
        f"{store.name}: its metadata lead to {str(path)[:100]!r}, which is no folder inside of its own.\n"
        f"{_EXPECTED}\nCopy the whole store; nothing outside of it is read."
    )


def _read_image(path: Path, attributes: dict[str, Any] | None, ome: dict[str, Any]) -> Multiscale:
    if attributes is None:
        raise SlideError(f"{path.name}: is a folder without zarr metadata (zarr.json or .zattrs).\n{_EXPECTED}")
    if "multiscales" not in ome:
        if "plate" in ome or "well" in ome:
            raise SlideError(
                f"{path.name}: is a {'plate' if 'plate' in ome else 'well'} of many images.\n{_EXPECTED}\n"
                f"Give the folder of one image in it, for example {_first_image(path, ome)}"
            )
        raise SlideError(f"{path.name}: is zarr without 'multiscales' metadata.\n{_EXPECTED}")
    try:
        return _parse(path, ome, attributes.get("wsiseg", {}))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SlideError(
            f"{path.name}: its OME-Zarr metadata are damaged ({type(error).__name__}: {str(error)[:200]}).\n"
            f"{_EXPECTED}"
        ) from error


def _first_image(path: Path, ome: dict[str, Any]) -> str:
    """The path of an image of a plate or well, by its metadata if they say and by the layout's rule if not."""
    try:
        well = path / ome["plate"]["wells"][0]["path"] if "plate" in ome else path
        images = ome["well"] if "well" in ome else _ome(well, _attributes(well) or {}).get("well", {})
        return str(well / (images["images"][0]["path"] if "images" in images else "0"))
    except (KeyError, IndexError, TypeError, SlideError):
        return str(path / ("A/1/0" if "plate" in ome else "0"))


def _ome(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, dict):
        raise SlideError(f"{path.name}: its OME metadata are not an object.\n{_EXPECTED}")
    return ome


def _attributes(group: Path) -> dict[str, Any] | None:
    """The attributes of a group of zarr v3 or v2; None where there is no group."""
    for name in ("zarr.json", ".zattrs", ".zgroup"):
        if not (group / name).is_file():
            continue
        try:
            content = read_json(group / name)
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
        raise SlideError(f"{group.name}: is OME-Zarr of version {shown(version)[:20]}.\n{_EXPECTED}")
    names = tuple(str(axis["name"]) for axis in axes)
    if not {"y", "x"} <= set(names) <= set("tczyx") or "c" not in names or len(set(names)) < len(names):
        raise SlideError(f"{group.name}: has the axes {shown(', '.join(names))[:100]}.\n{_EXPECTED}")
    channels, noted = _channels(group, ome)
    datasets = multiscale["datasets"]
    scale = _scale(datasets[0], len(names))
    common = _scale(multiscale, len(names))
    sizes = {name: a * b for name, a, b in zip(names, scale, common, strict=True)}
    units = {axis["name"]: axis.get("unit") for axis in axes}
    unknown = [unit for unit in (units["x"], units["y"]) if unit is not None and unit not in _UM]
    if len(ome["multiscales"]) > 1:
        noted = (f"{len(ome['multiscales'])} multiscale images, of which the first is read", *noted)
    return Multiscale(
        group=group,
        axes=names,
        paths=tuple(str(dataset["path"]) for dataset in datasets),
        mpp_x=None if unknown else _microns(sizes["x"], units["x"]),
        mpp_y=None if unknown else _microns(sizes["y"], units["y"]),
        mpp_problem=f"its pixel size of {sizes['x']:g} has the unit {str(unknown[0])[:20]!r}" if unknown else "",
        channels=channels,
        own=own if isinstance(own, dict) else {},
        notes=noted,
    )


def _channels(group: Path, ome: dict[str, Any]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Where red, green and blue are, and a note on how they are shown; SlideError if the channels are others.

    Names decide, whatever the colours: a dye shown in red is no red. Channels without names are red, green and blue
    in that order unless they have other colours, or a display range each.
    """
    channels = (ome.get("omero") or {}).get("channels") or []
    labels = [str(channel.get("label") or "") for channel in channels]
    named = [_colour_named(label) for label in labels]
    if len(channels) == 3 and sorted(named) == [0, 1, 2]:
        return tuple(map(named.index, range(3))), ()
    colors = tuple(str(channel.get("color", "")).upper().lstrip("#")[:6] for channel in channels)
    windows = {_window(channel) for channel in channels}
    if (
        not all(_UNNAMED.fullmatch(label.strip().lower()) for label in labels)
        or (len(set(colors)) > 1 and colors != _RGB)
        or len(windows) > 1
    ):
        ranges = f", shown from {_ranges(windows)}," if len(windows) > 1 else ""
        called, coloured = (shown(", ".join(words))[:100] for words in (labels, colors))
        raise SlideError(
            f"{group.name}: its channels are {called} in the colours {coloured}{ranges} "
            f"not red, green, blue.\n{_EXPECTED}\nwsiseg does not segment fluorescence."
        )
    stretched = windows - {(0.0, 255.0), None}
    return (0, 1, 2), ((f"shown by viewers from {_ranges(stretched)}; read from 0 to 255",) if stretched else ())


def _colour_named(label: str) -> int:
    """0, 1 or 2 for a channel that is called red, green or blue, else -1."""
    words = [word for word in re.findall(r"[a-zµ]+", label.lower()) if word not in ("channel", "ch", "c")]
    return next((i for i, names in enumerate(_COLOUR_NAMES) if len(words) == 1 and words[0] in names), -1)


def _window(channel: dict[str, Any]) -> tuple[float, float] | None:
    window = channel.get("window") or {}
    if "start" not in window or "end" not in window:
        return None
    return float(window["start"]), float(window["end"])


def _ranges(windows: set[tuple[float, float] | None]) -> str:
    return ", ".join(f"{window[0]:g} to {window[1]:g}" for window in sorted(filter(None, windows)))


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
