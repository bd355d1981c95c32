"""Semi-supervised rounds: a teacher labels what is unlabelled, and its student learns from that as well.

As in SNOW [1]_: the training patches are divided into labelled, validation and unlabelled ones (45/5/50); a teacher
is trained on the first; in each round the teacher gives the unlabelled ones soft labels, a student starts from the
teacher's weights and is trained on both, and the best network so far by validation is the next teacher.

References
----------
.. [1] Ding et al. 2023, doi:10.1038/s41597-023-02125-y.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from wsiseg.core.atomic import read_json, write_json
from wsiseg.run.events import PatchesDone, RoundEnded
from wsiseg.train.checkpoint import Progress
from wsiseg.train.labelling import Trust, pseudo_labels
from wsiseg.train.patches import PatchPool, write_pool
from wsiseg.train.pools import Portion, divide, spread
from wsiseg.train.settings import Rounds
from wsiseg.train.training import Training, fit_on
from wsiseg.train.validate import predict, predictor

_PIECE = 16

Scores = dict[str, dict[str, float]]


def train_rounds(
    training: Training,
    rounds: Rounds,
    train: Sequence[Portion],
    validation: Sequence[Portion],
    unlabelled: Sequence[Portion],
) -> tuple[nn.Module, Progress, Scores]:
    """Train a teacher and its students; each part goes on where it was stopped.

    Returns
    -------
    network : Module
        The best on validation.
    progress : Progress
        Of its training.
    scores : mapping
        On validation, of the teacher and of each round's student.
    """
    recipe, out = training.recipe, training.out
    labelled, held_out, rest = divide(train, [rounds.labelled, rounds.validation], recipe.seed)
    patches = spread(held_out or validation, recipe.stop.images)
    rest += unlabelled
    network, progress = fit_on(training, out / "teacher", labelled, patches, recipe.optimise, recipe.seed)
    scores: Scores = {"validation, teacher": dict(progress.scores)}
    best, best_progress = network, progress
    optimise = dataclasses.replace(recipe.optimise, steps=rounds.steps, epochs=rounds.epochs, rate=rounds.rate)
    for number in range(1, rounds.count + 1):
        folder = out / f"round-{number}"
        pseudo = _labelled_by(training, best, rounds, rest, folder / "labels")
        mixed = [*_scaled(labelled, 1 - rounds.share), *_scaled(pseudo, rounds.share)]
        state = best.state_dict()
        student, progress = fit_on(
            training, folder, mixed, patches, optimise, recipe.seed + number, {k: v.cpu() for k, v in state.items()}
        )
        scores[f"validation, student of round {number}"] = dict(progress.scores)
        better = progress.best > best_progress.best
        training.on_event(RoundEnded(folder.name, number, rounds.count, progress.scores, better))
        _record(out, scores)
        if better:
            best, best_progress = student, progress
    return best, best_progress, scores


def _labelled_by(
    training: Training, teacher: nn.Module, rounds: Rounds, portions: Sequence[Portion], folder: Path
) -> list[Portion]:
    """The unlabelled portions with the teacher's labels, kept in ``folder``."""
    plan = training.plan
    engine = predictor(teacher, plan, training.machine.placement)
    trust = Trust(rounds.soft, rounds.sure, rounds.unknown)
    total, made = sum(map(len, portions)), []

    def parts(portion: Portion, before: int, first: int) -> Iterator[PatchPool]:
        for start in range(first, len(portion), _PIECE):
            some = portion.pool.part(portion.indices[start : start + _PIECE])
            found = [predict(engine, plan, image, rounds.mirrors) for image in some.images]
            taught = [
                pseudo_labels(f.maps, f.labels, f.scores, known, plan.head, trust)
                for f, known in zip(found, some.known, strict=True)
            ]
            labels, covered, known = (np.stack(arrays) for arrays in zip(*taught, strict=True))
            yield PatchPool(some.images, labels, covered, known, some.weight)
            training.on_event(PatchesDone("labels", before + start + len(some), total))

    before = 0
    for number, portion in enumerate(portions):

        def rest(first: int, portion: Portion = portion, before: int = before) -> Iterator[PatchPool]:
            return parts(portion, before, first)

        made.append(Portion.whole(write_pool(folder / str(number), rest), portion.proportion))
        before += len(portion)
    return made


def _scaled(portions: Sequence[Portion], share: float) -> list[Portion]:
    """The portions with proportions that add up to ``share``."""
    total = sum(portion.proportion for portion in portions)
    return [dataclasses.replace(p, proportion=share * p.proportion / total) for p in portions]


def _record(out: Path, scores: Scores) -> None:
    before = read_json(out / "rounds.json") or {}
    write_json(out / "rounds.json", {**before, **scores})
