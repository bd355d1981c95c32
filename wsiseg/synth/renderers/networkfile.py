"""Trained networks of a renderer on disk: one safetensors file, its header saying what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from wsiseg.core.atomic import write_bytes
from wsiseg.core.tables import Dataclass, parse_table
from wsiseg.errors import ModelError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

Config = TypeVar("Config", bound=Dataclass)


def write_networks(path: Path, kind: str, note: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> None:
    """Write the weights of ``networks``, atomically; ``note`` (JSON) goes into the header as it is.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    from safetensors.torch import save

    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous().clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    write_bytes(path, save(tensors, {"wsiseg": json.dumps({"format": kind, **note}, sort_keys=True)}))


def read_networks(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The note and the tensors of what :func:`write_networks` wrote.

    Raises
    ------
    ModelError
        No such file, a damaged one, or another kind of file.
    """
    header, tensors = read_tensors(path)
    try:
        note = json.loads(header.get("wsiseg", "{}"))
    except ValueError as error:
        raise _unreadable(path, error) from error
    found = note.get("format") if isinstance(note, dict) else None
    if found != kind:
        raise ModelError(f"{path}: is {found!r}; expected {kind!r}, which training its renderer writes")
    return note, tensors


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The texts in the header of a safetensors file, and its tensors.

    Raises
    ------
    ModelError
        No such file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def read_described(path: Path, kind: str, config: type[Config]) -> tuple[Config, float, dict[str, Tensor]]:
    """Configuration, microns per pixel and tensors of a file whose note has ``config`` and ``mpp``.

    Raises
    ------
    ModelError
        As :func:`read_networks`; or its description is none.
    """
    note, tensors = read_networks(path, kind)
    try:
        return parse_table(config, note.get("config"), "config"), float(note["mpp"]), tensors
    except (UsageError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: its description cannot be used: {error}") from error


def restore(path: Path, networks: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of :func:`read_networks` into their networks.

    Raises
    ------
    ModelError
        They do not fit.
    """
    for name, network in networks.items():
        start = f"{name}."
        part = {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
        try:
            network.load_state_dict(part)
        except RuntimeError as error:
            raise ModelError(f"{path}: the weights of its {name} do not fit its description: {error}") from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path}: cannot be read as networks of a renderer: {error}. Copy it again.")


def to_tensor(images: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 (N, h, w, 3) to float32 (N, 3, h, w) in [-1, 1]."""
    import torch

    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1.0


def to_images(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """The inverse of :func:`to_tensor`, rounded and clipped."""
    import torch

    values = ((tensor.detach().float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    images: npt.NDArray[np.uint8] = values.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return images
