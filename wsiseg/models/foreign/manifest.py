"""Manifests: what must be known of a network that comes as TorchScript or ONNX, in a TOML file beside it.

A published checkpoint of HoVer-Net says itself how it is called; a manifest adds a name, a licence and what its
types are. See docs/models.md for the keys. Everything is checked here that can be without the network; what it
gives is checked by a trial run when it is loaded (:mod:`wsiseg.models.foreign.load`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from msgspec import Meta

from wsiseg.core.tables import parse_table
from wsiseg.core.typed import Count, Number
from wsiseg.errors import ModelError, UsageError
from wsiseg.models.base import ModelCard
from wsiseg.models.decoders import Decoder, build_decoder
from wsiseg.models.files import require_file, shallow
from wsiseg.models.foreign.interface import ForeignConfig, Interface, Pick
from wsiseg.models.heads import Head, head_by_name
from wsiseg.models.weightfile import CHECKPOINT

FORMAT = 1
_LARGEST = 1_000_000  # bytes
_PROBABLE = ("logit", "classes", "types")
"""Kinds of maps that are probabilities."""

_Text = Annotated[str, Meta(pattern=r"\S", description="a text")]
_Name = Annotated[str, Meta(description="a name")]
_Place = Annotated[int, Meta(ge=0, description="a position from 0")]
_Places = Annotated[tuple[_Place, ...], Meta(min_length=1, description="a list of positions from 0")]
_Names = Annotated[tuple[_Text, ...], Meta(min_length=2, description="a list of two or more names")]
_Pair = Annotated[tuple[Number, Number], Meta(description="2 numbers")]
_Colour = Annotated[tuple[Number, Number, Number], Meta(description="3 numbers")]
_Texts = Annotated[tuple[str, ...], Meta(description="a list of texts")]
_Speeds = Annotated[Mapping[str, Number], Meta(description="megapixels a second by place")]
_Scores = Annotated[Mapping[str, Mapping[str, Number]], Meta(description="numbers by name, by data set")]
_Step = Annotated[int, Meta(ge=1, le=2**31, description="a whole number from 1")]


@dataclass(frozen=True, kw_only=True)
class _Input:
    """``[input]``: what a network that nobody here knows is fed, and what it sees."""

    stride_px: _Step
    reach_px: Count
    border_px: Count = 0
    window_px: Count | None = None
    mean: _Colour | None = None
    std: _Colour | None = None
    range: _Pair | None = None

    def __post_init__(self) -> None:
        least = max(64, self.stride_px)
        if self.window_px is not None and self.window_px < least:
            raise ValueError(f"window_px: got {self.window_px}; expected a whole number from {least}")
        both = self.mean is not None and self.std is not None
        if both == (self.range is not None) or (self.mean is None) != (self.std is None):
            raise ValueError("expected either mean and std, of RGB in 0 … 1, or range, what 0 and 255 become")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std: got {list(self.std)}; expected three positive numbers")
        if self.range is not None and self.range[0] == self.range[1]:
            raise ValueError(f"range: got {list(self.range)}; its ends are equal")

    def normalisation(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and standard deviation, of RGB in 0 … 1."""
        if self.range is not None:
            low, high = self.range
            return (-low / (high - low),) * 3, (1 / (high - low),) * 3
        assert self.mean is not None
        assert self.std is not None
        return self.mean, self.std


@dataclass(frozen=True)
class _Map:
    """``[head.maps.NAME]``: where a map is among the outputs."""

    output: _Place | _Name = 0
    channels: _Places | None = None
    values: Literal["logits", "probabilities"] | None = None
    scale: Number | None = None
    types: _Names | None = None

    def __post_init__(self) -> None:
        _require_distinct(self.types or ())


@dataclass(frozen=True)
class _Head:
    """``[head]``"""

    name: _Text
    maps: Mapping[str, _Map]


@dataclass(frozen=True)
class _PublishedMap:
    types: _Names

    def __post_init__(self) -> None:
        _require_distinct(self.types)


@dataclass(frozen=True)
class _PublishedMaps:
    tp: _PublishedMap | None = None


@dataclass(frozen=True)
class _PublishedHead:
    """``[head]`` of a published checkpoint, which says itself all but the names of its types."""

    name: str = "hover"
    maps: _PublishedMaps = _PublishedMaps()

    def __post_init__(self) -> None:
        if self.name != "hover":
            raise ValueError(f"name: got {self.name!r}; a published checkpoint has the head 'hover'")


@dataclass(frozen=True)
class _DecoderTable:
    """``[decoder]``"""

    name: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "mpp" in self.parameters:
            raise ValueError("parameters.mpp: it is the manifest's")


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """A manifest as it is written."""

    format: int
    name: _Text
    file: _Text
    licence: _Text
    mpp: Number
    sha256: _Text | None = None
    margin_px: Count | None = None
    input: _Input | None = None
    head: _Head | _PublishedHead | None = None
    decoder: _DecoderTable = _DecoderTable()
    summary: str = ""
    data: _Texts = ()
    recipe: str = ""
    scores: _Scores | None = None
    limits: _Texts = ()
    speed: _Speeds | None = None

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file or not self.file.isprintable():
            raise ValueError(f"file: got {self.file!r}; expected the name of a file beside the manifest")

    def card(self) -> ModelCard:
        return ModelCard(
            self.name, self.summary, self.licence, self.data, self.recipe, self.scores, self.limits, self.speed
        )


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
    except (ModelError, UsageError, ValueError) as error:
        raise ModelError(f"{path}: {error}. See `Bring your own` in docs/models.md.") from error


def _manifest(path: Path, content: Mapping[str, Any]) -> Manifest:
    if content.get("format") != FORMAT:
        raise ValueError(f"format is {content.get('format')!r}; this version of wsiseg reads {FORMAT}")
    published = Path(str(content.get("file"))).suffix == CHECKPOINT
    if published and "input" in content:
        raise ValueError(f"input: {content['file']} is a published checkpoint, whose input is known. Remove it")
    made = {"head": parse_table(_PublishedHead if published else _Head, content.get("head", {}), "head")}
    tables = parse_table(_Tables, content, "", made)
    interface, head, types = _published(tables) if published else _foreign(tables)
    return Manifest(
        path,
        path.parent / tables.file,
        tables.sha256.lower() if tables.sha256 else None,
        tables.card(),
        interface,
        head,
        types,
        _decoder(tables, head),
        tables.margin_px,
        content,
    )


def _foreign(tables: _Tables) -> tuple[Interface, Head, tuple[str, ...]]:
    """What is said of a network that nobody here knows, its head, and the names of its types."""
    table = tables.input
    if table is None:
        raise ValueError("input: is missing; expected a table")
    assert isinstance(tables.head, _Head)
    head, picks, channels = _head(tables.head)
    config = ForeignConfig(
        table.stride_px, table.border_px, table.reach_px, table.window_px, MappingProxyType(channels)
    )
    named = tuple(name for pick in picks.values() for name in pick.types)
    interface = Interface(config, MappingProxyType(picks), *table.normalisation())
    return interface, head, named or head.type_names(channels)


def _published(tables: _Tables) -> tuple[None, Head, tuple[str, ...]]:
    """HoVer-Net's head and the names of its types, which is all that a checkpoint does not say itself."""
    named = tables.head.maps.tp if isinstance(tables.head, _PublishedHead) else None
    return None, head_by_name("hover"), named.types if named else ()


def _head(table: _Head) -> tuple[Head, dict[str, Pick], dict[str, int]]:
    """The head, where its maps are, and how many channels each has."""
    head, maps = head_by_name(table.name), table.maps
    needed = {name for name in head.inputs if not head.maps[name].optional}
    if not needed <= set(maps) <= set(head.inputs):
        raise ValueError(f"head.maps: got {sorted(maps)}; the head {head.name!r} needs {sorted(needed)}")
    picks = {name: _pick(maps[name], name, head) for name in head.inputs if name in maps}
    channels = {name: len(p.channels or p.types) or head.maps[name].channels for name, p in picks.items()}
    for name, pick in picks.items():
        if pick.types and len(pick.types) != channels[name]:
            raise ValueError(
                f"head.maps.{name}.types names {len(pick.types)} types for {channels[name]} channels: expected one "
                "for each, first that of the background, for nuclei without a type"
            )
    if not head.fits(channels):
        raise ValueError(f"the maps have {channels} channels; the head {head.name!r} has {head.outputs}")
    return head, picks, channels


def _pick(table: _Map, name: str, head: Head) -> Pick:
    kind, where = head.maps[name].kind, f"head.maps.{name}"
    if table.values and kind not in _PROBABLE:
        raise ValueError(f"{where}.values: got {table.values!r}; only a map of probabilities has them")
    if table.scale is not None and kind in _PROBABLE:
        raise ValueError(f"{where}.scale: got {table.scale:g}; a map of probabilities has none")
    if table.types and kind != "types":
        raise ValueError(f"{where}.types: only a map of types has them")
    scale = 1.0 if table.scale is None else table.scale
    return Pick(table.output, table.channels, table.values or "logits", scale, table.types or ())


def _require_distinct(names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names) or not all(name.isprintable() for name in names):
        raise ValueError(f"types: got {list(names)}; expected two or more names, each once")


def _decoder(tables: _Tables, head: Head) -> Decoder:
    name, parameters = tables.decoder.name or head.decoders[0], tables.decoder.parameters
    if name not in head.decoders:
        raise ValueError(f"decoder {name!r} does not read the head {head.name!r}; {', '.join(head.decoders)} do")
    decoder: Decoder = build_decoder(name, {**parameters, "mpp": tables.mpp})
    return decoder
