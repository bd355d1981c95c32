"""Segmenters that stay in a worker: loaded by the first task that asks for one, kept for those that follow."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass

from wsiseg.models.base import Segmenter
from wsiseg.models.registry import load_segmenter

_LOADING = threading.Lock()


@dataclass(frozen=True)
class ModelChoice:
    """Which segmenter a worker loads, and on what."""

    model: str
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    """Torch threads of a worker process; None leaves torch's own choice."""
    engine: str = "auto"
    """``auto``, ``torch`` or ``openvino``."""
    mirrors: bool = False
    """Average a network's maps over mirror images."""


def resident_segmenter(choice: ModelChoice) -> Segmenter:
    """The process's one segmenter for a choice, loaded when it is first asked for."""
    with _LOADING:
        return _load(choice)


@functools.lru_cache(maxsize=2)
def _load(choice: ModelChoice) -> Segmenter:
    if choice.threads is not None:
        import torch

        torch.set_num_threads(choice.threads)
    return load_segmenter(
        choice.model,
        device=choice.device,
        precision=choice.precision,
        engine=choice.engine,
        mirrors=choice.mirrors,
    )
