"""HoVer-Net's published checkpoints: ``.tar`` files of torch with the state dict under ``desc``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsiseg.errors import ModelError
from wsiseg.models.files import read_torch
from wsiseg.models.networks.hovernet import FIRST_WIDTH, HoVerNet, HoVerNetConfig

_ENTRY = "desc"
_PARALLEL = "module."  # torch.nn.DataParallel puts it before every name
_SHOWN = 3


def load_published_checkpoint(path: Path | str) -> HoVerNet:
    """A HoVer-Net with the weights of a checkpoint that its authors or others saved with the published names.

    Mode, number of types and widths are read off the shapes. No code in the file is run.

    Parameters
    ----------
    path : path
        A file of ``torch.save``: a state dict, alone or under ``desc``, whose names may begin with ``module.``.

    Returns
    -------
    HoVerNet
        In evaluation mode, float32, on the CPU.

    Raises
    ------
    ModelError
        Missing, truncated or foreign file; code in the file; names or shapes of another network; weights that
        are not finite.
    """
    path = Path(path)
    state = _state_dict(read_torch(path), path)
    config = _config(state, path)
    with torch.device("meta"):  # no need to draw 38 million random numbers
        network = HoVerNet(config)
    _check(state, network.state_dict(), path)
    network.to_empty(device="cpu")
    network.load_state_dict(state)
    return network.eval()


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    state = loaded.get(_ENTRY, loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not state or not all(torch.is_tensor(v) for v in state.values()):
        raise ModelError(
            f"{path}: expected a state dict (names to tensors), alone or under {_ENTRY!r}, "
            f"found {type(state).__name__}"
        )
    if all(name.startswith(_PARALLEL) for name in state):
        state = {name.removeprefix(_PARALLEL): value for name, value in state.items()}
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(f"{path}: the weights {name!r} are not finite")
    return dict(state)


def _config(state: Mapping[str, Tensor], path: Path) -> HoVerNetConfig:
    first = state.get("decoder.np.u3.conva.weight")
    if first is None or first.ndim != 4 or first.shape[-1] not in (3, 5):
        raise ModelError(
            f"{path}: not a HoVer-Net: 'decoder.np.u3.conva.weight' of 5 × 5 or 3 × 3 is missing among "
            f"{len(state)} names such as {sorted(state)[:_SHOWN]}"
        )
    types = state.get("decoder.tp.u0.conv.bias")
    mode = "original" if first.shape[-1] == 5 else "fast"
    try:
        return HoVerNetConfig(mode, 0 if types is None else len(types), FIRST_WIDTH // max(1, first.shape[0]))
    except ValueError as error:
        raise ModelError(f"{path}: not a HoVer-Net: {error}") from error


def _check(state: dict[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    # Torch fills in the counts of batches where a file of an old version lacks them; nothing reads them.
    for name, value in expected.items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.zeros((), dtype=value.dtype))
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or extra:
        raise ModelError(
            f"{path}: names do not fit HoVer-Net: {len(missing)} missing {missing[:_SHOWN]}, "
            f"{len(extra)} unexpected {extra[:_SHOWN]}"
        )
    wrong = [name for name, value in expected.items() if state[name].shape != value.shape]
    if wrong:
        name = wrong[0]
        raise ModelError(
            f"{path}: {len(wrong)} shapes do not fit HoVer-Net, the first {name!r}: "
            f"{tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        )
