"""Whether `wsiseg train` keeps what computes busy: patches a second of loader and step alone, and of the loop.

    python benchmarks/train.py                               the default's recipe, on whatever is there
    python benchmarks/train.py --recipe unet-0.25 --batch 32 --compile
    python benchmarks/train.py --workers 4 --seconds 5

One JSON object a line. For the processor and, where there is one, the CUDA device, and for each way of making
batches (threads that do all; processes, with the colours on the device):

- "loader": batches from patches that are mapped from the disk, taken as fast as they come;
- "step": one batch again and again: copied, its colours varied where they are deferred, network, loss, optimiser;
- "loop": `wsiseg train`'s own loop, between its third step and its last;
- "ratio": loop / step. 1: what computes never waits. "headroom": loader / step.

Patches are drawn discs, and weights fresh: speed depends on neither. Compare lines of one run only.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsiseg.models.base import ModelCard
from wsiseg.models.engine.engine import place
from wsiseg.run.events import Event, StepsDone
from wsiseg.testing.training import discs
from wsiseg.train.batches import Batch, BatchMaker, batches
from wsiseg.train.device import deterministic
from wsiseg.train.loader import loaded_batches
from wsiseg.train.loop import Job, Machine, fit, new_optimiser, take_step
from wsiseg.train.patches import PatchPool, write_pool
from wsiseg.train.plan import Plan, fresh_network, plan_training
from wsiseg.train.pools import Portion
from wsiseg.train.recipe import parse_recipe, read_recipe
from wsiseg.train.settings import Recipe, Start, Stop

WARM = 3
"""Steps before the clock starts: compilation, caches, and batches that are ahead."""
PATCHES = 32


def drawn_pool(folder: Path, side: int) -> PatchPool:
    """Patches with a nucleus every thirty pixels or so, mapped from ``folder``."""
    pairs = [discs(seed, side, side, (side // 30) ** 2) for seed in range(PATCHES)]
    images, labels = (np.stack(parts) for parts in zip(*pairs, strict=True))
    whole = PatchPool.of(images, labels.astype(np.int16))
    return write_pool(folder, lambda first: [whole.part(slice(first, None))])


def loader_rate(maker: BatchMaker, offload: bool, workers: int, seconds: float) -> float:
    """Batches a second, taken as fast as they come."""
    make = loaded_batches if offload else batches
    made = make(maker, 0, 10**9, workers)
    try:
        return rate(lambda: next(made), WARM + 4 * workers, seconds)
    finally:
        made.close()


def step_rate(job: Job, recipe: Recipe, batch: Batch, seconds: float) -> float:
    """Steps a second on one batch."""
    device = job.machine.placement.device
    network = fresh_network(job.plan, recipe).to(device)
    if job.machine.compile:
        network.compile()
    optimiser = new_optimiser(network, job.optimise)
    numbers = itertools.count()
    with deterministic(device):
        return rate(lambda: take_step(job, network, optimiser, batch, next(numbers)), WARM, seconds)


def loop_rate(job: Job, recipe: Recipe) -> float:
    """Steps a second of the loop, without the validation at its end."""
    moments: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, StepsDone):
            moments.append(time.perf_counter())

    fit(job, fresh_network(job.plan, recipe), note)
    return (len(moments) - WARM) / (moments[-1] - moments[WARM - 1])


def rate(action: Callable[[], object], warm: int, seconds: float) -> float:
    """How often a second ``action`` is done; each waits for the device by itself."""
    for _ in range(warm):
        action()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or done < 2:
        action()
        done += 1
    return done / (time.perf_counter() - started)


def measure(machine: Machine, recipe: Recipe, plan: Plan, pool: PatchPool, seconds: float) -> dict[str, Any]:
    """One line."""
    optimise = dataclasses.replace(recipe.optimise, steps=10**6, epochs=None)
    portions = [Portion.whole(pool)]
    maker = BatchMaker(
        portions, plan.targets, recipe.augment, optimise.batch, optimise.crop, recipe.data.mpp, 0,
        defer=machine.offload,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            plan, optimise, Stop(), maker, [(pool, 0)], Path(folder), machine, ModelCard("b", "", "").to_dict()
        )
        batch = maker.make(0)
        if torch.cuda.is_available():
            batch = batch.pin_memory()
        loader = loader_rate(maker, machine.offload, machine.workers, seconds)
        step = step_rate(job, recipe, batch, seconds)
        steps = WARM + max(2, round(seconds * min(step, loader)))
        last = dataclasses.replace(optimise, steps=steps)
        stop = Stop(every=steps)
        loop = loop_rate(dataclasses.replace(job, optimise=last, stop=stop), recipe)
    patches = {name: round(optimise.batch * value, 1) for name, value in
               (("loader", loader), ("step", step), ("loop", loop))}  # fmt: skip
    return {
        "on": machine.words,
        "batches_by": f"{machine.workers} {'processes' if machine.offload else 'threads'}",
        "batch": optimise.batch,
        "crop": optimise.crop,
        "patches_per_s": patches,
        "ratio": round(loop / step, 2),
        "headroom": round(loader / step, 2),
    }


def machines(options: argparse.Namespace, precision: str) -> Iterator[Machine]:
    """What is to be measured."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device, offload in itertools.product(options.devices or devices, (False, True)):
        placement = place(device, precision)
        yield Machine(placement, options.threads, options.workers, 1e9, offload, options.compile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = os.cpu_count() or 1
    parser.add_argument("--recipe", default="unet-0.5")
    parser.add_argument("--batch", type=int, help="patches a step, instead of the recipe's")
    parser.add_argument("--devices", nargs="+", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=cores, help="of torch")
    parser.add_argument("--workers", type=int, default=max(1, cores - 1))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = parse_recipe(read_recipe(options.recipe)[0])
    optimise = dataclasses.replace(recipe.optimise, batch=options.batch or recipe.optimise.batch)
    recipe = dataclasses.replace(recipe, optimise=optimise, start=Start())
    plan = plan_training(recipe)
    with tempfile.TemporaryDirectory() as folder:
        pool = drawn_pool(Path(folder) / "pool", max(recipe.data.side, optimise.crop))
        for machine in machines(options, optimise.precision):
            found = measure(machine, recipe, plan, pool, options.seconds)
            print(json.dumps({"recipe": options.recipe, "torch": torch.__version__, **found}), flush=True)


if __name__ == "__main__":
    main()
