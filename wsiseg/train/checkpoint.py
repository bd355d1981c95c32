"""All that a training is at a step, on disk: what is read back goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsiseg.core.atomic import replacing
from wsiseg.core.environment import environment_faults
from wsiseg.errors import EnvironmentFault


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes
    ----------
    step : int
        Steps done.
    best : float
        Highest AJI on validation so far; -1 before the first.
    best_step : int
    scores : mapping of str to float
        At the best step.
    stale : int
        Validations since then.
    finished : bool
    """

    step: int = 0
    best: float = -1.0
    best_step: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    stale: int = 0
    finished: bool = False


def save_checkpoint(
    path: Path,
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    card: Mapping[str, Any],
) -> None:
    """Write a checkpoint, atomically; ``card`` goes with it as it is.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    content = {
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": asdict(progress),
        "card": dict(card),
    }
    save_state(path, content)


def save_average(path: Path, average: nn.Module, progress: Progress, card: Mapping[str, Any]) -> None:
    """Write the averaged weights alone: the best so far.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    save_state(path, {"average": average.state_dict(), "progress": asdict(progress), "card": dict(card)})


def load_checkpoint(
    path: Path, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> Progress:
    """Put a checkpoint's weights and optimiser state into place; a new training if there is none.

    Raises
    ------
    EnvironmentFault
        The checkpoint is damaged.
    """
    if not path.exists():
        return Progress()
    content = load_state(path)
    network.load_state_dict(content["network"])
    average.load_state_dict(content["average"])
    optimiser.load_state_dict(content["optimiser"])
    return Progress(**content["progress"])


def load_average(path: Path) -> tuple[dict[str, Tensor], Progress]:
    """Averaged weights and progress of a checkpoint or of the best weights.

    Raises
    ------
    EnvironmentFault
        The file is missing or damaged.
    """
    content = load_state(path)
    return content["average"], Progress(**content["progress"])


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers and texts in dictionaries and lists, atomically.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    with environment_faults(path), replacing(path) as temporary:
        torch.save(content, temporary)


def load_state(path: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote, on the processor.

    Raises
    ------
    EnvironmentFault
        The file is missing or damaged.
    """
    try:
        loaded: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch has no error of its own for a damaged file
        raise EnvironmentFault(
            f"{path}: cannot be read ({type(error).__name__}). Remove it to train from the start."
        ) from error
    return loaded
