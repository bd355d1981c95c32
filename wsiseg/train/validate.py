"""What a network is worth: its nuclei on whole validation patches, by its head's decoder, against the labels."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from wsiseg.core.raster import rasterize
from wsiseg.evaluate import evaluate
from wsiseg.models.engine.engine import Engine, Placement
from wsiseg.models.engine.mirrors import mean_of_mirrors
from wsiseg.models.heads import Maps
from wsiseg.train.patches import KNOWN, PatchPool
from wsiseg.train.plan import Plan

SCORES = ("aji", "dice", "pq", "f1", "precision", "recall")
_PAD_PX = 32

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Prediction:
    """A network's view of one patch: the decoder's maps, and the instances (h, w) that it makes of them."""

    maps: tuple[Maps, ...]
    labels: Labels
    scores: npt.NDArray[np.float32]


def predictor(network: nn.Module, plan: Plan, placement: Placement) -> Engine:
    """A copy of ``network`` that is ready to run as in ``wsiseg segment``."""
    return Engine(copy.deepcopy(network), placement, plan.head)


def predict(engine: Engine, plan: Plan, image: npt.NDArray[np.uint8], mirrors: bool = False) -> Prediction:
    """Maps and instances of an image uint8 (h, w, 3) of any size; ``mirrors``: averaged over mirror images."""
    height, width = image.shape[:2]
    stride = int(engine.config.stride_px)
    pad = min(_PAD_PX, height - 1, width - 1)
    after = [-(n + 2 * pad) % stride + pad for n in (height, width)]
    padded = np.pad(image, ((pad, after[0]), (pad, after[1]), (0, 0)), mode="symmetric")
    run = engine.run_on_device
    found = mean_of_mirrors(run, padded, plan.head) if mirrors else run([padded])[0]
    maps = tuple(m[..., pad : pad + height, pad : pad + width].contiguous().cpu().numpy() for m in found)
    nuclei = plan.head.decode(maps, plan.decoder)
    labels = rasterize(nuclei, np.arange(1, len(nuclei) + 1), (height, width))
    return Prediction(maps, labels, nuclei.columns["score"].astype(np.float32))


def validate(engine: Engine, plan: Plan, patches: Sequence[tuple[PatchPool, int]]) -> dict[str, float]:
    """Mean ``SCORES`` over whole patches; where nothing is known of a patch, neither truth nor finding counts."""
    rows = list(_scores(engine, plan, patches))
    if not rows:
        return dict.fromkeys(SCORES, 0.0)
    return {name: round(float(np.mean([row[name] for row in rows])), 5) for name in SCORES}


def _scores(engine: Engine, plan: Plan, patches: Sequence[tuple[PatchPool, int]]) -> Iterator[dict[str, float]]:
    for pool, index in patches:
        known = np.asarray(pool.known[index]) == KNOWN
        if not known.any():
            continue
        found = predict(engine, plan, np.asarray(pool.images[index])).labels
        scores = evaluate(np.where(known, pool.labels[index], 0), np.where(known, found, 0)).to_dict()
        yield {name: float(scores[name] or 0.0) for name in SCORES}
