"""Manifests: what must be known of a network that comes as TorchScript or ONNX, in a TOML file beside it.

A published checkpoint of HoVer-Net says itself how it is called; a manifest adds a name, a licence and what its
types are. See docs/models.md for the keys. Everything is checked here that can be without the network; what it
gives is checked by a trial run when it is loaded (:mod:`wsiseg.models.foreign.load`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wsiseg.errors import ModelError
from wsiseg.models.base import ModelCard
from wsiseg.models.decoders import Decoder, build_decoder
from wsiseg.models.files import require_file, shallow
from wsiseg.models.foreign import tables
from wsiseg.models.foreign.interface import ForeignConfig, Interface, Pick
from wsiseg.models.heads import Head, head_by_name
from wsiseg.models.weightfile import CHECKPOINT

FORMAT = 1
_LARGEST = 1_000_000  # bytes
_TOP = (
    "format", "name", "file", "sha256", "mpp", "margin_px", "input", "head", "decoder",
    "summary", "licence", "data", "recipe", "scores", "limits", "speed",
)  # fmt: skip
_INPUT = ("mean", "std", "range", "stride_px", "border_px", "reach_px", "window_px")
_MAP = ("output", "channels", "values", "scale", "types")
_VALUES = ("logits", "probabilities")
_PROBABLE = ("logit", "classes", "types")


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
    interface : Interface or None
        None: a published checkpoint of HoVer-Net.
    head : Head
    types : tuple of str
        Names of the types of nuclei, the background's first; () without a map of types, or where only a
        checkpoint says how many there are.
    decoder : Decoder
    margin_px : int or None
        A pixel farther than this from an object has no influence on it, if it has been measured.
    content : mapping
        The file's own content.
    """

    path: Path
    file: Path
    sha256: str | None
    card: ModelCard
    interface: Interface | None
    head: Head
    types: tuple[str, ...]
    decoder: Decoder
    margin_px: int | None
    content: Mapping[str, Any]


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises
    ------
    ModelError
        It cannot be read, a key is unknown or lacks, or a value does not fit; the message says which and why.
    """
    require_file(path, _LARGEST)
    try:
        content = shallow(tomllib.loads, path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ModelError(f"{path}: not a TOML file ({error})") from error
    try:
        return _manifest(path, content)
    except (ModelError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: {error}. See `Bring your own` in docs/models.md.") from error


def _manifest(path: Path, content: Mapping[str, Any]) -> Manifest:
    tables.only(content, _TOP, "the manifest")
    if content.get("format") != FORMAT:
        raise ValueError(f"format is {content.get('format')!r}; this version of wsiseg reads {FORMAT}")
    for key in ("name", "file", "licence"):
        tables.text(content, key)
    if Path(content["file"]).name != content["file"] or not content["file"].isprintable():
        raise ValueError(f"file is {content['file']!r}: expected the name of a file beside the manifest")
    published = Path(content["file"]).suffix == CHECKPOINT
    interface, head, types = _published(content) if published else _foreign(content)
    return Manifest(
        path,
        path.parent / content["file"],
        tables.text(content, "sha256").lower() if "sha256" in content else None,
        ModelCard.from_dict(content),
        interface,
        head,
        types,
        _decoder(content, head),
        tables.whole(content, "margin_px", 0) if "margin_px" in content else None,
        content,
    )


def _foreign(content: Mapping[str, Any]) -> tuple[Interface, Head, tuple[str, ...]]:
    """What is said of a network that nobody here knows, its head, and the names of its types."""
    table = tables.table(content, "input")
    tables.only(table, _INPUT, "[input]")
    head, picks, channels = _head(tables.table(content, "head"))
    stride = tables.whole(table, "stride_px", 1)
    config = ForeignConfig(
        stride,
        tables.whole(table, "border_px", 0, 0),
        tables.whole(table, "reach_px", 0),
        tables.whole(table, "window_px", max(64, stride)) if "window_px" in table else None,
        MappingProxyType(channels),
    )
    named = tuple(name for pick in picks.values() for name in pick.types)
    interface = Interface(config, MappingProxyType(picks), *_normalisation(table))
    return interface, head, named or head.type_names(channels)


def _published(content: Mapping[str, Any]) -> tuple[None, Head, tuple[str, ...]]:
    """HoVer-Net's head and the names of its types, which is all that a checkpoint does not say itself."""
    head = head_by_name("hover")
    if "input" in content:
        raise ValueError(f"[input]: {content['file']} is a published checkpoint, whose input is known. Remove it")
    table = tables.table(content, "head") if "head" in content else {}
    tables.only(table, ("name", "maps"), "[head]")
    if table.get("name", head.name) != head.name:
        raise ValueError(f"[head] name is {table['name']!r}: a published checkpoint has the head {head.name!r}")
    maps = tables.table(table, "maps") if "maps" in table else {}
    tables.only(maps, ("tp",), "[head.maps] of a published checkpoint")
    if not maps:
        return None, head, ()
    where, map_ = "[head.maps.tp]", tables.table(maps, "tp")
    tables.only(map_, ("types",), f"{where} of a published checkpoint")
    return None, head, _types(map_.get("types"), where, "types")


def _head(table: Mapping[str, Any]) -> tuple[Head, dict[str, Pick], dict[str, int]]:
    """The head, where its maps are, and how many channels each has."""
    tables.only(table, ("name", "maps"), "[head]")
    head = head_by_name(tables.text(table, "name"))
    maps = tables.table(table, "maps")
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
        chosen = picks[name].channels or picks[name].types
        channels[name] = len(chosen) or head.maps[name].channels
        if picks[name].types and len(picks[name].types) != channels[name]:
            raise ValueError(
                f"{where} types names {len(picks[name].types)} types for {channels[name]} channels: expected one "
                "for each, first that of the background, for nuclei without a type"
            )
    if not head.fits(channels):
        raise ValueError(f"the maps have {channels} channels; the head {head.name!r} has {head.outputs}")
    return head, picks, channels


def _pick(table: Mapping[str, Any], where: str, kind: str) -> Pick:
    tables.only(table, _MAP, where)
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
    scale = tables.number(table, "scale") if "scale" in table else 1.0
    if "scale" in table and kind in _PROBABLE:
        raise ValueError(f"{where} scale: a map of probabilities has none")
    types = _types(table["types"], where, kind) if "types" in table else ()
    return Pick(output, None if channels is None else tuple(channels), values, scale, types)


def _types(names: Any, where: str, kind: str) -> tuple[str, ...]:
    if kind != "types":
        raise ValueError(f"{where} types: only a map of types has them")
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() and n.isprintable() for n in names):
        raise TypeError(f"{where} types is {names!r}: expected a list of names")
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"{where} types is {names!r}: expected two or more names, each once")
    return tuple(names)


def _decoder(content: Mapping[str, Any], head: Head) -> Decoder:
    table = tables.table(content, "decoder") if "decoder" in content else {}
    tables.only(table, ("name", "parameters"), "[decoder]")
    name = table.get("name", head.decoders[0])
    parameters = tables.table(table, "parameters") if "parameters" in table else {}
    if name not in head.decoders:
        raise ValueError(f"decoder {name!r} does not read the head {head.name!r}; {', '.join(head.decoders)} do")
    if "mpp" in parameters:
        raise ValueError("[decoder.parameters] mpp: it is the manifest's")
    decoder: Decoder = build_decoder(name, {**parameters, "mpp": tables.number(content, "mpp")})
    return decoder


def _normalisation(table: Mapping[str, Any]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation, of RGB in 0 … 1."""
    if "range" in table and not {"mean", "std"} & set(table):
        low, high = tables.numbers(table, "range", 2)
        if low == high:
            raise ValueError(f"[input] range is {table['range']!r}: its ends are equal")
        return (-low / (high - low),) * 3, (1 / (high - low),) * 3
    if "range" in table or not {"mean", "std"} <= set(table):
        raise ValueError("[input] needs either mean and std, of RGB in 0 … 1, or range, what 0 and 255 become")
    std = tables.numbers(table, "std", 3)
    if min(std) <= 0:
        raise ValueError(f"[input] std is {table['std']!r}: expected three positive numbers")
    red, green, blue = tables.numbers(table, "mean", 3)
    return (red, green, blue), (std[0], std[1], std[2])
