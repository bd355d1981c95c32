"""The training loop: plain steps, a moving average of the weights, validation, and checkpoints to go on from.

A step is a function of the state before it and of its number: batches, dropout and the learning rate are found
from the seed and the step. So a training that was killed, at any moment, ends with the weights of one that was not.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsiseg.errors import TrainingError
from wsiseg.models.engine.engine import Placement
from wsiseg.run.events import Begun, Listener, StepsDone, Validated
from wsiseg.train.batches import Batch, BatchMaker, batches
from wsiseg.train.checkpoint import Progress, load_average, load_checkpoint, save_average, save_checkpoint
from wsiseg.train.curves import draw_curves, draw_samples
from wsiseg.train.device import compiler_faults, deterministic
from wsiseg.train.interrupt import Interrupt, deferred_interrupt
from wsiseg.train.journal import Journal
from wsiseg.train.loader import loaded_batches
from wsiseg.train.losses import loss_terms
from wsiseg.train.patches import PatchPool
from wsiseg.train.plan import Plan
from wsiseg.train.settings import Optimise, Stop
from wsiseg.train.validate import predictor, validate

LOG_EVERY = 50
KEPT, CHECKPOINT = "kept.pt", "checkpoint.pt"


@dataclass(frozen=True)
class Machine:
    """What a training runs on. ``workers`` and ``checkpoint_s`` change no weights, the others their last digits.

    Attributes
    ----------
    placement : Placement
    threads : int
        Of torch.
    workers : int
        Threads that make batches, or processes.
    checkpoint_s : float
        Seconds between checkpoints, besides those at validations.
    offload : bool
        Processes make the batches, and the device varies their colours; otherwise threads do both. The noise of the
        colours is then the device's.
    compile : bool
        Whether torch compiles the network.
    """

    placement: Placement
    threads: int = 1
    workers: int = 1
    checkpoint_s: float = 60.0
    offload: bool = False
    compile: bool = False

    @property
    def words(self) -> str:
        """What computes, as the journal says it."""
        kind = self.placement.device.partition(":")[0]
        return f"{kind} {self.placement.precision}{', compiled' if self.compile else ''}"


@dataclass(frozen=True)
class Job:
    """One network's training.

    Attributes
    ----------
    plan : Plan
    optimise : Optimise
        With ``steps``.
    stop : Stop
    maker : BatchMaker
    validation : sequence of (PatchPool, int)
        Patches that decide which network is the best.
    folder : Path
        Gets checkpoints, logs, curves and samples.
    machine : Machine
    card : mapping
        Goes into every checkpoint.
    """

    plan: Plan
    optimise: Optimise
    stop: Stop
    maker: BatchMaker
    validation: Sequence[tuple[PatchPool, int]]
    folder: Path
    machine: Machine
    card: Mapping[str, Any]

    @property
    def steps(self) -> int:
        assert self.optimise.steps is not None
        return self.optimise.steps


def fit(job: Job, network: nn.Module, on_event: Listener) -> tuple[nn.Module, Progress]:
    """Train ``network``, or go on where an earlier call was stopped.

    Returns
    -------
    network : Module
        With the averaged weights that ``stop.keep`` says.
    progress : Progress

    Raises
    ------
    TrainingError
        The loss is not finite. The last checkpoint is kept.
    EnvironmentFault
        The disk refuses, or torch cannot compile the network.
    """
    torch.set_num_threads(job.machine.threads)
    device = job.machine.placement.device
    network = network.to(device)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = new_optimiser(network, job.optimise)
    if job.machine.compile:
        network.compile()
    progress = load_checkpoint(job.folder / CHECKPOINT, network, average, optimiser)
    if not progress.finished:
        journal = Journal(job.folder, progress.step)
        on_event(Begun(job.folder.name, job.steps, progress.step))
        try:
            with deterministic(device), compiler_faults(), deferred_interrupt() as interrupt:
                progress = _run(job, network, average, optimiser, progress, journal, interrupt, on_event)
        finally:
            journal.close()
    state, best = load_average(job.folder / KEPT)
    average.load_state_dict(state)
    return average, dataclasses.replace(best, step=progress.step, finished=True)


def _run(
    job: Job,
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    journal: Journal,
    interrupt: Interrupt,
    on_event: Listener,
) -> Progress:
    began = saved = time.monotonic()

    def save() -> None:
        card = {**job.card, "scores": {"validation": dict(progress.scores)}}
        save_checkpoint(job.folder / CHECKPOINT, network, average, optimiser, progress, card)

    make = loaded_batches if job.machine.offload else batches
    made = make(job.maker, progress.step, job.steps, job.machine.workers)
    with contextlib.closing(made):
        for batch in made:
            step = progress.step
            row = take_step(job, network, optimiser, batch, step)
            update_average(average, network, min(job.optimise.average, (step + 1) / (step + 10)))
            progress = dataclasses.replace(progress, step=step + 1)
            if step % LOG_EVERY == 0 or progress.step == job.steps:
                journal.write(
                    {"step": step, "s": round(time.monotonic() - began, 1), "on": job.machine.words, **row}
                )
            on_event(StepsDone(job.folder.name, progress.step, job.steps, row["loss"]["total"]))
            if progress.step % job.stop.every == 0 or progress.step == job.steps:
                progress = _validated(job, average, progress, journal, on_event)
                save()
                saved = time.monotonic()
                if progress.finished:
                    break
            elif time.monotonic() - saved > job.machine.checkpoint_s or interrupt.requested:
                save()
                saved = time.monotonic()
            interrupt.raise_if_requested()
    return progress


def take_step(
    job: Job, network: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, step: int
) -> dict[str, Any]:
    """One step of the optimiser; what the journal is to know of it."""
    placement, optimise = job.machine.placement, job.optimise
    torch.manual_seed(job.maker.seed * 1_000_003 + step)  # of dropout
    rate = learning_rate(step, optimise)
    for group in optimiser.param_groups:
        group["lr"] = rate
    network.train()
    batch = batch.to(placement.device)
    kind = placement.device.split(":")[0]
    with torch.autocast(kind, torch.bfloat16, enabled=placement.precision == "bf16"):
        maps = network(batch.images.float() / 127.5 - 1.0)
    terms = loss_terms(job.plan.loss, maps, batch.targets, batch.weight)
    optimiser.zero_grad(set_to_none=True)
    terms["total"].backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), optimise.clip or math.inf)
    # All at once: each number that is asked for waits for the device.
    *found, length = torch.stack([*(value.detach() for value in terms.values()), norm]).tolist()
    losses = dict(zip(terms, found, strict=True))
    if not (math.isfinite(losses["total"]) and math.isfinite(length)):
        values = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
        raise TrainingError(
            f"step {step}: the loss or its gradient is not finite ({values}). The checkpoint in {job.folder} is of "
            "before. Train in another folder with a lower optimise.rate, or with optimise.precision = 'fp32'."
        )
    optimiser.step()
    return {"rate": rate, "loss": {name: round(value, 5) for name, value in losses.items()}}


def _validated(job: Job, average: nn.Module, progress: Progress, journal: Journal, on_event: Listener) -> Progress:
    """The progress after a validation; the weights to keep are written if these are."""
    engine = predictor(average, job.plan, job.machine.placement)
    scores = validate(engine, job.plan, job.validation)
    better = scores["aji"] > progress.best
    if better:
        progress = dataclasses.replace(
            progress, best=scores["aji"], best_step=progress.step, scores=scores, stale=0
        )
    else:
        progress = dataclasses.replace(progress, stale=progress.stale + 1)
    tired = 0 < job.stop.patience <= progress.stale
    progress = dataclasses.replace(progress, finished=tired or progress.step >= job.steps)
    if better or job.stop.keep == "last":
        kept = dataclasses.replace(progress, best=scores["aji"], best_step=progress.step, scores=scores)
        save_average(job.folder / KEPT, average, kept, {**job.card, "scores": {"validation": scores}})
    journal.write({"step": progress.step - 1, "validation": scores})
    on_event(Validated(job.folder.name, progress.step, scores, better, tired))
    draw_curves(job.folder)
    path = job.folder / "samples" / f"step-{progress.step:07d}.png"
    journal.picture("samples", draw_samples(engine, job.plan, job.validation, path), progress.step)
    return progress


def learning_rate(step: int, optimise: Optimise) -> float:
    """Linear warm-up, then the schedule."""
    assert optimise.steps is not None
    if step < optimise.warmup:
        return optimise.rate * (step + 1) / optimise.warmup
    if optimise.schedule == "constant":
        return optimise.rate
    if optimise.schedule == "step":
        return optimise.rate * optimise.drop ** sum(step >= d * optimise.steps for d in optimise.drops)
    done = (step - optimise.warmup) / max(1, optimise.steps - optimise.warmup)
    return optimise.rate * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """``average`` = decay · ``average`` + (1 - decay) · ``network``; counters are copied."""
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def new_optimiser(network: nn.Module, optimise: Optimise) -> torch.optim.Optimizer:
    """The optimiser of a training that has made no step."""
    if optimise.optimiser == "adam":
        return torch.optim.Adam(network.parameters(), optimise.rate)
    return torch.optim.AdamW(network.parameters(), optimise.rate, weight_decay=optimise.weight_decay)
