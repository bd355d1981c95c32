"""Segmenters that stay in a worker: loaded by the first task that asks for one, kept for those that follow."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsiseg.errors import EnvironmentFault
from wsiseg.models.base import Segmenter
from wsiseg.models.files import Identity, identity
from wsiseg.models.registry import load_segmenter, model_files

_MOST = 3
"""Segmenters that a process keeps: two that ``auto`` may pick, and the one that gives second opinions."""
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


@dataclass(frozen=True)
class _Resident:
    """A segmenter, what it says of itself, and the files that it was read from."""

    segmenter: Segmenter
    description: Mapping[str, Any]
    files: tuple[Path, ...]
    identity: Identity


_residents: dict[ModelChoice, _Resident] = {}
"""The one used last is the last."""


def resident_segmenter(choice: ModelChoice, planned: Mapping[str, Any] | None = None) -> Segmenter:
    """The process's segmenter for a choice, loaded when it is first asked for and again when its file has changed.

    Parameters
    ----------
    choice : ModelChoice
    planned : mapping, optional
        What the segmenter that a slide was planned with says of itself (:meth:`Segmenter.describe`). This one then
        says the same, whatever has become of the file and whatever ``auto`` would mean here.

    Raises
    ------
    ModelError
        No such model, or weights that cannot be used.
    EnvironmentFault
        This process has only another segmenter than the planned one to offer.
    """
    with _LOADING:
        if planned is None:
            return _loaded(choice).segmenter
        expected = _json(planned)
        for other, resident in _residents.items():
            if replace(other, precision=choice.precision) == choice and resident.description == expected:
                return resident.segmenter
        if choice.precision == "auto" and expected.get("precision") == "fp32":
            choice = replace(choice, precision="fp32")  # which any machine can
        resident = _loaded(choice)
    if resident.description != expected:
        raise _unlike(choice, resident.description, expected)
    return resident.segmenter


def _loaded(choice: ModelChoice) -> _Resident:
    """The segmenter that the files hold now."""
    found = _residents.pop(choice, None)
    if found is None or identity(found.files) != found.identity:
        del found
        while len(_residents) >= _MOST:
            del _residents[next(iter(_residents))]
        found = _load(choice)
    _residents[choice] = found
    return found


def _load(choice: ModelChoice) -> _Resident:
    if choice.threads is not None:
        import torch

        torch.set_num_threads(choice.threads)
    files = model_files(choice.model)
    before = identity(files)
    segmenter = load_segmenter(
        choice.model,
        device=choice.device,
        precision=choice.precision,
        engine=choice.engine,
        mirrors=choice.mirrors,
    )
    return _Resident(segmenter, _json(segmenter.describe()), files, before)


def _unlike(choice: ModelChoice, found: Mapping[str, Any], planned: Mapping[str, Any]) -> EnvironmentFault:
    """Says what a segmenter has other than the planned one, and what to do."""
    differing = sorted(key for key in found.keys() | planned.keys() if found.get(key) != planned.get(key))
    where = f"{choice.model} on {socket.gethostname()}"
    if "weights_sha256" in differing:
        own, other = (str(value.get("weights_sha256"))[:12] for value in (found, planned))
        return EnvironmentFault(
            f"{where}: the weights there have the SHA-256 {own}…, the slide was planned with {other}…: overwritten "
            "during the run, or not the same file on all machines.\nLet all see one file; the same command goes on."
        )
    if "precision" in differing:
        return EnvironmentFault(
            f"{where}: computes in {found.get('precision')}, the slide was planned in {planned.get('precision')}: "
            "its nuclei would be of two kinds.\nRun with --precision fp32, or without that machine."
        )
    return EnvironmentFault(
        f"{where}: its {', '.join(differing)} are not those that the slide was planned with.\n"
        "Let all machines have the same version of wsiseg and the same files; the same command goes on."
    )


def _json(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description as it comes back from a plan's file."""
    return dict(json.loads(json.dumps(description)))
