"""The loop of a contest: steps, sheets of samples, scores, and checkpoints to go on from exactly."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wsiseg.core.atomic import replacing
from wsiseg.core.environment import environment_faults
from wsiseg.run.events import Begun, Listener, StepsDone
from wsiseg.train.checkpoint import load_state, save_state
from wsiseg.train.curves import draw_curves
from wsiseg.train.device import deterministic
from wsiseg.train.generators.contest import Contest
from wsiseg.train.interrupt import deferred_interrupt
from wsiseg.train.journal import Journal

LOG_EVERY = 25
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Course:
    """How long a contest is trained, and what is written on the way.

    Attributes
    ----------
    steps : int
    every : int
        Steps between sheets and scores.
    seed : int
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    checkpoint_s : float
        Seconds between checkpoints, besides those at sheets.
    weights : Path
        Written anew at each sheet.
    card : mapping
        Goes into the weights.
    """

    steps: int
    every: int
    seed: int
    device: str
    checkpoint_s: float
    weights: Path
    card: Mapping[str, Any]


def compete(contest: Contest, course: Course, folder: Path, on_event: Listener) -> None:
    """Train, or go on where an earlier call was stopped.

    ``folder`` gets ``log.jsonl``, ``log.csv``, ``curves.png``, ``samples/`` and the checkpoint.

    Raises
    ------
    TrainingError
        A loss is not finite. The last checkpoint is kept.
    EnvironmentFault
        The disk refuses, or the checkpoint is damaged.
    """
    done = _resume(contest, folder / CHECKPOINT)
    journal = Journal(folder, done)
    on_event(Begun(folder.name, course.steps, done))
    try:
        with deterministic(course.device), deferred_interrupt() as interrupt:
            began = saved = time.monotonic()
            for number in range(done, course.steps):
                torch.manual_seed(course.seed * 1_000_003 + number)
                losses = contest.step(number)
                if number % LOG_EVERY == 0 or number + 1 == course.steps:
                    loss = {name: round(value, 5) for name, value in losses.items()}
                    journal.write({"step": number, "s": round(time.monotonic() - began, 1), "loss": loss})
                on_event(StepsDone(folder.name, number + 1, course.steps, sum(losses.values())))
                shown = (number + 1) % course.every == 0 or number + 1 == course.steps
                if shown:
                    _show(contest, course, folder, journal, number + 1)
                if shown or interrupt.requested or time.monotonic() - saved > course.checkpoint_s:
                    _save(contest, folder / CHECKPOINT, number + 1)
                    saved = time.monotonic()
                interrupt.raise_if_requested()
    finally:
        journal.close()


def _show(contest: Contest, course: Course, folder: Path, journal: Journal, step: int) -> None:
    journal.write({"step": step - 1, "likeness": {name: round(x, 5) for name, x in contest.scores().items()}})
    draw_curves(folder, likeness=True)
    path = folder / "samples" / f"step-{step:07d}.png"
    sheet = contest.sheet()
    with environment_faults(path):
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            Image.fromarray(sheet).save(temporary, "PNG")
    journal.picture("samples", sheet, step)
    contest.save(course.weights, {**course.card, "step": step})


def _save(contest: Contest, path: Path, step: int) -> None:
    content = {
        "step": step,
        "networks": {name: network.state_dict() for name, network in contest.networks.items()},
        "optimisers": {name: optimiser.state_dict() for name, optimiser in contest.optimisers.items()},
        "memory": contest.memory(),
    }
    save_state(path, content)


def _resume(contest: Contest, path: Path) -> int:
    """Put a checkpoint into place; the number of steps that are done."""
    if not path.exists():
        return 0
    content = load_state(path)
    for name, network in contest.networks.items():
        network.load_state_dict(content["networks"][name])
    for name, optimiser in contest.optimisers.items():
        optimiser.load_state_dict(content["optimisers"][name])
    contest.recall(content["memory"])
    return int(content["step"])
