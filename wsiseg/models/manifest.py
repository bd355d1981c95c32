"""Manifests: what must be known of a network that comes as TorchScript or ONNX, in a TOML file beside it.

See docs/models.md for the keys. Everything is checked here that can be without the network; what it gives is
checked by a trial run when it is loaded (:mod:`wsiseg.models.foreign`).
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from wsiseg.errors import ModelError
from wsiseg.models.base import ModelCard
from wsiseg.models.decoders import Decoder, build_decoder
from wsiseg.models.heads import Head, head_by_name
from wsiseg.models.networks.sizes import require_multiple

FORMAT = 1
_TOP = (
    "format", "name", "file", "sha256", "mpp", "margin_px", "input", "head", "decoder",
    "summary", "licence", "data", "recipe", "scores", "limits", "speed",
)  # fmt: skip
_INPUT = ("mean", "std", "range", "stride_px", "border_px", "reach_px", "window_px")
_MAP = ("output", "channels", "values", "scale")
_VALUES = ("logits", "probabilities")
_PROBABLE = ("logit", "classes", "types")


@dataclass(frozen=True)
class Pick:
    """Where a map of the head is among a network's outputs.

    Attributes
    ----------
    output : int or str
        Position or name of the output.
    channels : tuple of int or None
        Of that output; None: all.
    values : str
        ``logits`` or ``probabilities``, for the maps that are one or the other.
    scale : float
        Factor that makes pixels of lengths.
    """

    output: int | str = 0
    channels: tuple[int, ...] | None = None
    values: str = "logits"
    scale: float = 1.0


@dataclass(frozen=True)
class ForeignConfig:
    """Geometry and maps of a network, as :mod:`wsiseg.models.networks` describes its own.

    Attributes
    ----------
    stride_px : int
        Sides of images must be multiples of this, plus twice ``border_px``.
    border_px : int
        What the maps lack of the image on each side.
    reach_px : int
        The farthest that a pixel can have an effect: half of the receptive field.
    window_px : int or None
        Larger images are computed in windows; None: never.
    outputs : mapping of str to int
        Names and channels of the head's maps.
    """

    stride_px: int
    border_px: int
    reach_px: int
    window_px: int | None
    outputs: Mapping[str, int]

    kind: ClassVar[str] = "foreign"

    def output_shape(self, height: int, width: int) -> tuple[int, int]:
        """Size of the maps of an image of height × width; ValueError where it does not fit."""
        require_multiple(height, width, self.stride_px, 2 * self.border_px)
        return height - 2 * self.border_px, width - 2 * self.border_px


@dataclass(frozen=True)
class Manifest:
    """A manifest that has been checked.

    Attributes
    ----------
    path : Path
        Of the manifest.
    file : Path
        Of the network.
    sha256 : str or None
        Of the network's file.
    card : ModelCard
    config : ForeignConfig
    head : Head
    picks : mapping of str to Pick
        By the names of the head's maps.
    decoder : Decoder
    mean, std : tuple of float
        Of RGB in 0 … 1: the network gets (value − mean) / std.
    margin_px : int or None
        A pixel farther than this from an object has no influence on it, if it has been measured.
    content : mapping
        The file's own content.
    """

    path: Path
    file: Path
    sha256: str | None
    card: ModelCard
    config: ForeignConfig
    head: Head
    picks: Mapping[str, Pick]
    decoder: Decoder
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    margin_px: int | None
    content: Mapping[str, Any]


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises
    ------
    ModelError
        It cannot be read, a key is unknown or lacks, or a value does not fit; the message says which and why.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a TOML file ({error})") from error
    try:
        return _manifest(path, content)
    except (ModelError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {error}. See `Bring your own` in docs/models.md.") from error


def _manifest(path: Path, content: Mapping[str, Any]) -> Manifest:
    _only(content, _TOP, "the manifest")
    if content.get("format") != FORMAT:
        raise ValueError(f"format is {content.get('format')!r}; this version of wsiseg reads {FORMAT}")
    for key in ("name", "file", "licence"):
        _text(content, key)
    if Path(content["file"]).name != content["file"] or not content["file"].isprintable():
        raise ValueError(f"file is {content['file']!r}: expected the name of a file beside the manifest")
    table = _table(content, "input")
    _only(table, _INPUT, "[input]")
    head, picks, channels = _head(_table(content, "head"))
    mean, std = _normalisation(table)
    return Manifest(
        path,
        path.parent / content["file"],
        _text(content, "sha256").lower() if "sha256" in content else None,
        ModelCard.from_dict(content),
        ForeignConfig(
            _whole(table, "stride_px", 1),
            _whole(table, "border_px", 0, 0),
            _whole(table, "reach_px", 0),
            _whole(table, "window_px", max(64, _whole(table, "stride_px", 1))) if "window_px" in table else None,
            MappingProxyType(channels),
        ),
        head,
        MappingProxyType(picks),
        _decoder(content, head),
        mean,
        std,
        _whole(content, "margin_px", 0) if "margin_px" in content else None,
        content,
    )


def _head(table: Mapping[str, Any]) -> tuple[Head, dict[str, Pick], dict[str, int]]:
    """The head, where its maps are, and how many channels each has."""
    _only(table, ("name", "maps"), "[head]")
    head = head_by_name(_text(table, "name"))
    maps = _table(table, "maps")
    needed = {name for name in head.inputs if not head.maps[name].optional}
    if not needed <= set(maps) <= set(head.inputs):
        raise ValueError(f"[head.maps] has {sorted(maps)}; the head {head.name!r} needs {sorted(needed)}")
    picks: dict[str, Pick] = {}
    channels: dict[str, int] = {}
    for name in (name for name in head.inputs if name in maps):
        where = f"[head.maps.{name}]"
        if not isinstance(maps[name], Mapping):
            raise TypeError(f"{where} is {maps[name]!r}, not a table")
        picks[name] = _pick(maps[name], where, head.maps[name].kind)
        chosen = picks[name].channels
        channels[name] = head.maps[name].channels if chosen is None else len(chosen)
    if not head.fits(channels):
        raise ValueError(f"the maps have {channels} channels; the head {head.name!r} has {head.outputs}")
    return head, picks, channels


def _pick(table: Mapping[str, Any], where: str, kind: str) -> Pick:
    _only(table, _MAP, where)
    output, channels = table.get("output", 0), table.get("channels")
    if isinstance(output, bool) or not isinstance(output, int | str) or (isinstance(output, int) and output < 0):
        raise TypeError(f"{where} output is {output!r}: expected a position from 0 or a name")
    if channels is not None:
        whole = isinstance(channels, list) and all(type(c) is int and c >= 0 for c in channels)
        if not whole or not channels:
            raise TypeError(f"{where} channels is {channels!r}: expected a list of positions from 0")
    values = table.get("values", "logits")
    if values not in _VALUES or ("values" in table and kind not in _PROBABLE):
        raise ValueError(f"{where} values is {values!r}: expected one of {_VALUES}, for probabilities only")
    scale = _number(table, "scale") if "scale" in table else 1.0
    if "scale" in table and kind in _PROBABLE:
        raise ValueError(f"{where} scale: a map of probabilities has none")
    return Pick(output, None if channels is None else tuple(channels), values, scale)


def _decoder(content: Mapping[str, Any], head: Head) -> Decoder:
    table = _table(content, "decoder") if "decoder" in content else {}
    _only(table, ("name", "parameters"), "[decoder]")
    name = table.get("name", head.decoders[0])
    parameters = _table(table, "parameters") if "parameters" in table else {}
    if name not in head.decoders:
        raise ValueError(f"decoder {name!r} does not read the head {head.name!r}; {', '.join(head.decoders)} do")
    if "mpp" in parameters:
        raise ValueError("[decoder.parameters] mpp: it is the manifest's")
    decoder: Decoder = build_decoder(name, {**parameters, "mpp": _number(content, "mpp")})
    return decoder


def _normalisation(table: Mapping[str, Any]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation, of RGB in 0 … 1."""
    if "range" in table and not {"mean", "std"} & set(table):
        low, high = _numbers(table, "range", 2)
        if low == high:
            raise ValueError(f"[input] range is {table['range']!r}: its ends are equal")
        return (-low / (high - low),) * 3, (1 / (high - low),) * 3
    if "range" in table or not {"mean", "std"} <= set(table):
        raise ValueError("[input] needs either mean and std, of RGB in 0 … 1, or range, what 0 and 255 become")
    std = _numbers(table, "std", 3)
    if min(std) <= 0:
        raise ValueError(f"[input] std is {table['std']!r}: expected three positive numbers")
    red, green, blue = _numbers(table, "mean", 3)
    return (red, green, blue), (std[0], std[1], std[2])


def _only(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"unknown keys {unknown} in {where}; it has {', '.join(known)}")


def _table(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    if not isinstance(value, Mapping):
        raise TypeError(f"the table [{key}] is missing" if value is None else f"{key} is {value!r}, not a table")
    return value


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"{key} is missing" if value is None else f"{key} is {value!r}, not a text")
    return value


def _number(table: Mapping[str, Any], key: str) -> float:
    value = table.get(key)
    if value is None:
        raise TypeError(f"{key} is missing")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{key} is {value!r}, not a finite number")
    return float(value)


def _numbers(table: Mapping[str, Any], key: str, count: int) -> list[float]:
    values = table[key]
    if not isinstance(values, list) or len(values) != count:
        raise TypeError(f"{key} is {values!r}: expected {count} numbers")
    return [_number({key: value}, key) for value in values]


def _whole(table: Mapping[str, Any], key: str, least: int, default: int | None = None) -> int:
    value = table.get(key, default)
    if type(value) is not int or value < least:
        raise TypeError(
            f"{key} is missing" if value is None else f"{key} is {value!r}: expected a whole number from {least}"
        )
    return value
