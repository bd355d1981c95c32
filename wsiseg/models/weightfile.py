"""Weight files: safetensors with card, architecture, head and decoder in the header; torch files without pickle.

A header key ``wsiseg`` holds JSON::

    {"format": 2, "card": {…}, "network": {"name": "unet", "parameters": {…}}, "head": "offsets",
     "decoder": {"name": "offsets", "parameters": {…}}, "margin_px": 48, "data_sha256": "…"}

Names are those of :mod:`wsiseg.models.networks`, :mod:`wsiseg.models.heads` and :mod:`wsiseg.models.decoders`.
Head, decoder and margin may be absent (the network's own, the head's usual one, all that can have an effect).
``data_sha256`` is the SHA-256 of all that follows the header: with it a damaged copy is found out.
Format 1 had no names: its files are U-Nets with offsets, and ``network`` and ``decoder`` the parameters themselves.

A torch file (``.pt``, ``.pth``) holds a dict with the same entries and ``state``; or a bare state dict of the
default network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.core.atomic import replacing
from wsiseg.errors import ModelError
from wsiseg.models.base import ModelCard
from wsiseg.models.files import read_torch, require_file, sha256_of, shallow

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
_FORMATS = (1, 2)
_MARGIN_PX_1 = 48
"""Measured with the weights of format 1 (fields of 107 px): 64 px from a window's edge the foreground is off by .2
at most, 80 px by .05, from 96 px on by nothing. With the largest nucleus a halo of 112 px; tiles of 512 and of
2048 px then gave identical nuclei (bf16, float32).
"""
SUFFIXES = (".safetensors", ".pt", ".pth")
CHECKPOINT = ".tar"
"""Of HoVer-Net's published weights; see :mod:`wsiseg.models.networks.published`."""
_LONGEST_HEADER = 8_000_000  # bytes; what 10,000 tensors need is one

_RELEASED: Mapping[str, str] = {
    # unet-0.25
    "9aec8c47f2034e6194442ae99b957f0fcf810dbdb0e10eee0c8acf35f0b39d26": (
        "650c841bece10f0d74ba9774cbd0ce9fd4d3bfed7efbb825ff95f5d0e7aede9e"
    ),
    # unet-0.5
    "a98fdc6817c42afebeee02fd2940ffcda979e27d5c59501774d0cff9213fca1a": (
        "e78ceb78592df469cc0268b96de550831275713927d8e1ea210a5fc863f362ab"
    ),
}
"""SHA-256 of the data by that of the header: weights of this package whose headers were written without it."""


@dataclass(frozen=True)
class Named:
    """A name of a registry, and what differs from its defaults."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file.

    Attributes
    ----------
    path : Path
    card : ModelCard
    network : Named
    head : str or None
        None: the head that has the network's maps.
    decoder : Named or None
        None: the head's usual one.
    state : mapping of str to Tensor
    sha256 : str
    margin_px : int or None
        A pixel farther than this from an object has no influence on it, as measured with these weights; None: not
        measured.
    """

    path: Path
    card: ModelCard
    network: Named
    head: str | None
    decoder: Named | None
    state: Mapping[str, Tensor]
    sha256: str
    margin_px: int | None = None


def read_header(path: Path) -> dict[str, Any]:
    """The JSON under ``wsiseg`` in a safetensors file's header, read without loading a tensor or torch.

    Raises
    ------
    ModelError
        Not a safetensors file, or one without that entry.
    """
    require_file(path)
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError("the header is impossibly long")
            header = shallow(json.loads, stream.read(length).decode())
        content = shallow(json.loads, header["__metadata__"]["wsiseg"])
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: not a weight file of wsiseg (no readable safetensors header with a 'wsiseg' entry). "
            "Expected a file that `wsiseg train` wrote."
        ) from error
    if not isinstance(content, dict) or content.get("format") not in _FORMATS:
        found = content.get("format") if isinstance(content, dict) else content
        raise ModelError(
            f"{path}: weight format {found!r}; this version of wsiseg reads the formats {_FORMATS}. "
            "Update wsiseg, or export the weights again."
        )
    return content


def load_weights(path: Path) -> WeightFile:
    """Read and check a weight file.

    Raises
    ------
    ModelError
        Missing, damaged, truncated or foreign file; code in a torch file; weights that are not finite.
    """
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path}: a weight file ends in {', '.join(SUFFIXES)}")
    require_file(path)
    content, state = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(
                f"{path}: the weights {name!r} are not finite. The file is damaged or training diverged."
            )
    card = read_card(path, content)
    digest = sha256_of(path)
    try:
        described = _described(content)
        return WeightFile(path, card, *described, state=state, sha256=digest, margin_px=_margin(content))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{path}: its description cannot be read ({type(error).__name__}: {error}). "
            "Expected what `wsiseg train` writes; see docs/models.md."
        ) from error


def read_card(path: Path, content: Mapping[str, Any]) -> ModelCard:
    """The card in a weight file's content; without one, the file's name.

    Raises
    ------
    ModelError
        A card that cannot be read.
    """
    try:
        return ModelCard.from_dict(content.get("card") or {"name": path.stem})
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: its description cannot be read ({error})") from error


def save_weights(
    path: Path,
    state: Mapping[str, Tensor],
    card: ModelCard,
    network: Named | Mapping[str, Any],
    decoder: Named | Mapping[str, Any],
    *,
    head: str | None = None,
    margin_px: int | None = None,
) -> None:
    """Write a safetensors file, floating-point tensors as float16.

    Parameters
    ----------
    path : Path
    state : mapping of str to Tensor
    card : ModelCard
    network, decoder : Named
        A mapping is taken for the parameters of "unet" and of "offsets".
    head : str, optional
        By default the one that has the network's maps.
    margin_px : int, optional
        As measured; see :class:`WeightFile`.

    Raises
    ------
    ModelError
        A weight is not finite in float16.
    """
    import torch
    from safetensors.torch import save, save_file

    small = {}
    for name, tensor in state.items():
        value = tensor.detach().cpu()
        value = value.to(torch.float16) if value.is_floating_point() else value
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(f"the weights {name!r} are not finite in float16")
        small[name] = value.contiguous()
    network = network if isinstance(network, Named) else Named("unet", network)
    decoder = decoder if isinstance(decoder, Named) else Named("offsets", decoder)
    content = {
        "format": FORMAT,
        "card": card.to_dict(),
        "network": network.to_dict(),
        "head": head,
        "decoder": decoder.to_dict(),
        "margin_px": margin_px,
    }
    content["data_sha256"] = hashlib.sha256(_after_header(save(small))).hexdigest()
    with replacing(path) as temporary:
        save_file(small, temporary, metadata={"wsiseg": json.dumps(content)})
        temporary.chmod(0o644)  # the library writes it for its owner alone


def _described(content: Mapping[str, Any]) -> tuple[Named, str | None, Named | None]:
    """Network, head and decoder."""
    network, head, decoder = content.get("network") or {}, content.get("head"), content.get("decoder") or {}
    if "name" not in network:  # format 1
        return Named("unet", dict(network)), "offsets", Named("offsets", dict(decoder))
    if head is not None and not isinstance(head, str):
        raise TypeError(f"the head is {head!r}, not a name")
    return _named(network), head, _named(decoder) if decoder else None


def _named(value: Mapping[str, Any]) -> Named:
    if set(value) - {"name", "parameters"} or not isinstance(value["name"], str):
        raise ValueError(f"expected a name and parameters, found {dict(value)}")
    return Named(value["name"], dict(value.get("parameters") or {}))


def _margin(content: Mapping[str, Any]) -> int | None:
    if "name" not in (content.get("network") or {}):
        return _MARGIN_PX_1
    margin = content.get("margin_px")
    if margin is not None and (not isinstance(margin, int) or margin < 0):
        raise ValueError(f"margin_px is {margin!r}, not a whole number of pixels")
    return margin


def _load_safetensors(path: Path) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    content = read_header(path)
    try:
        state = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ModelError(f"{path}: damaged or truncated safetensors file ({error}). Copy it again.") from error
    with path.open("rb") as stream:
        header = stream.read(int.from_bytes(stream.read(8), "little"))
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    expected = content.get("data_sha256") or _RELEASED.get(hashlib.sha256(header).hexdigest())
    if expected is not None and found != expected:
        raise ModelError(f"{path}: its weights are not those that were written into it: damaged. Copy it again.")
    return content, state


def _after_header(file: bytes) -> bytes:
    """The tensors of a safetensors file."""
    return file[8 + int.from_bytes(file[:8], "little") :]


def _load_torch(path: Path) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    import torch

    from wsiseg.models.foreign.torchscript import is_script

    if is_script(path):
        raise ModelError(
            f"{path}: a TorchScript program, not weights. It needs a manifest: wsiseg segment --model my-model.toml"
        )
    loaded = read_torch(path)
    content = loaded if isinstance(loaded, dict) else {}
    state = content.get("state", loaded)
    if not isinstance(state, Mapping) or not state or not all(torch.is_tensor(v) for v in state.values()):
        raise ModelError(f"{path}: expected a state dict (names to tensors), found {type(loaded).__name__}")
    size = path.stat().st_size
    if any(value.numel() * value.element_size() > size for value in state.values()):
        raise ModelError(f"{path}: holds a tensor that is larger than the file; refused")
    return (content if "state" in content else {}), state
