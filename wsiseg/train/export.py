"""From a training run to a weight file with its card, and to the page that states them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from wsiseg.models.base import ModelCard
from wsiseg.models.decoders.offsets import OffsetDecoder
from wsiseg.models.unet import UNetConfig
from wsiseg.models.weights_io import load_weights, save_weights


def export_run(run: Path, card: ModelCard, out: Path, config: UNetConfig, decoder: OffsetDecoder) -> str:
    """Write the averaged weights of ``run/checkpoint.pt`` to ``out`` and its page beside it; returns the sha256.

    Parameters
    ----------
    run : Path
        Folder that :func:`wsiseg.train.loop.train` wrote.
    out : Path
        ``<name>.safetensors``; ``<name>.md`` is written too.
    """
    state = torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")["average"]
    network = json.loads(json.dumps(asdict(config)))
    save_weights(out, state, card, network, asdict(decoder))
    written = load_weights(out)
    out.with_suffix(".md").write_text(page(card, written.sha256))
    return written.sha256


def page(card: ModelCard, sha256: str) -> str:
    """The card as Markdown."""
    lines = [f"# {card.name}", "", card.summary, "", f"Licence: {card.licence}. sha256: `{sha256}`.", ""]
    lines += ["## Training data", "", *(f"- {item}" for item in card.data), ""]
    lines += ["## Recipe", "", card.recipe, "", "## Scores", ""]
    for name, scores in (card.scores or {}).items():
        lines.append(f"- {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))
    lines += ["", "## Limits", "", *(f"- {item}" for item in card.limits), ""]
    return "\n".join(lines)
