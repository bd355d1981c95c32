"""Weight files: safetensors with the card, architecture and decoder in the header; torch files without pickle.

A header key ``wsiseg`` holds JSON: ``{"format": 1, "card": …, "network": …, "decoder": …}``. A torch file
(``.pt``, ``.pth``) holds a dict with the same entries and ``state``; or a bare state dict of the network.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.errors import ModelError
from wsiseg.models.base import ModelCard

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
SUFFIXES = (".safetensors", ".pt", ".pth")
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file; ``network`` and ``decoder`` are the fields of their parameter classes."""

    card: ModelCard
    network: Mapping[str, Any]
    decoder: Mapping[str, Any]
    state: Mapping[str, Tensor]
    sha256: str


def read_header(path: Path) -> dict[str, Any]:
    """The JSON under ``wsiseg`` in a safetensors file's header, read without loading a tensor or torch.

    Raises
    ------
    ModelError
        Not a safetensors file, or one without that entry.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError("the header is impossibly long")
            header = json.loads(stream.read(length))
        content = json.loads(header["__metadata__"]["wsiseg"])
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: not a weight file of wsiseg (no readable safetensors header with a 'wsiseg' entry). "
            "Expected a file that `wsiseg train` wrote."
        ) from error
    if content.get("format") != FORMAT:
        raise ModelError(
            f"{path}: weight format {content.get('format')!r}; this version of wsiseg reads format {FORMAT}. "
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
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    content, state = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(
                f"{path}: the weights {name!r} are not finite. The file is damaged or training diverged."
            )
    card = ModelCard.from_dict(content.get("card") or {"name": path.stem})
    return WeightFile(card, content.get("network") or {}, content.get("decoder") or {}, state, digest)


def save_weights(
    path: Path,
    state: Mapping[str, Tensor],
    card: ModelCard,
    network: Mapping[str, Any],
    decoder: Mapping[str, Any],
) -> None:
    """Write a safetensors file, floating-point tensors as float16.

    Raises
    ------
    ModelError
        A weight is not finite in float16.
    """
    import torch
    from safetensors.torch import save_file

    small = {}
    for name, tensor in state.items():
        value = tensor.detach().cpu()
        value = value.to(torch.float16) if value.is_floating_point() else value
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(f"the weights {name!r} are not finite in float16")
        small[name] = value.contiguous()
    content = {"format": FORMAT, "card": card.to_dict(), "network": dict(network), "decoder": dict(decoder)}
    temporary = path.with_suffix(".tmp")
    save_file(small, temporary, metadata={"wsiseg": json.dumps(content)})
    temporary.chmod(0o644)  # the library writes it for its owner alone
    temporary.replace(path)


def _load_safetensors(path: Path) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    content = read_header(path)
    try:
        return content, load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ModelError(f"{path}: damaged or truncated safetensors file ({error}). Copy it again.") from error


def _load_torch(path: Path) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors, and loading it could run code; refused. "
            "Save the state dict alone, or use safetensors."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: damaged or truncated torch file ({error}). Copy it again.") from error
    content = loaded if isinstance(loaded, dict) else {}
    state = content.get("state", loaded)
    if not isinstance(state, Mapping) or not state or not all(torch.is_tensor(v) for v in state.values()):
        raise ModelError(f"{path}: expected a state dict (names to tensors), found {type(loaded).__name__}")
    return (content if "state" in content else {}), state
