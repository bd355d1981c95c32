"""Pictures of a training while it runs: curves of losses and scores, and nuclei on validation patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from wsiseg.core.atomic import replacing
from wsiseg.core.environment import environment_faults
from wsiseg.models.engine.engine import Engine
from wsiseg.synth.sheet import outlined
from wsiseg.train.journal import Row, read_log
from wsiseg.train.patches import PatchPool
from wsiseg.train.validate import predict

if TYPE_CHECKING:
    from wsiseg.train.plan import Plan

Picture = npt.NDArray[np.uint8]
Points = list[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _MARGIN = 860, 300, 64, 30
_COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))
_GREY, _BLACK = (215, 215, 215), (40, 40, 40)


@dataclass(frozen=True)
class Panel:
    """Lines by name over the steps; ``logarithmic`` upwards, or from 0 to 1."""

    title: str
    lines: dict[str, Points]
    logarithmic: bool


def draw_curves(folder: Path, *, likeness: bool = False) -> None:
    """Write ``curves.png`` from the log in ``folder``: the losses, and the scores on validation or of likeness."""
    rows = read_log(folder)
    losses = Panel("loss (training)", _lines(rows, "loss"), True)
    scores = Panel("scores (validation)", _lines(rows, "validation"), False)
    if likeness:
        scores = Panel("likeness (samples)", _lines(rows, "likeness"), True)
    picture = Image.new("RGB", (_WIDTH, 2 * _HEIGHT), "white")
    last = max([row["step"] for row in rows], default=1) or 1
    for number, panel in enumerate((losses, scores)):
        _draw_panel(ImageDraw.Draw(picture), panel, number * _HEIGHT, last)
    _write(folder / "curves.png", picture)


def draw_samples(
    engine: Engine, plan: Plan, patches: Sequence[tuple[PatchPool, int]], path: Path, most: int = 4
) -> Picture:
    """Write and return a picture of patches spread over ``patches``: image, true outlines, those found."""
    chosen = [patches[n] for n in np.linspace(0, len(patches) - 1, min(most, len(patches))).round().astype(int)]
    rows = [_sample_row(engine, plan, np.asarray(pool.images[n]), np.asarray(pool.labels[n])) for pool, n in chosen]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(r, ((0, 4), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows]
    picture = np.concatenate(padded)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, Image.fromarray(picture))
    return picture


def _sample_row(engine: Engine, plan: Plan, image: Picture, labels: npt.NDArray[np.integer]) -> Picture:
    found = predict(engine, plan, image).labels
    gap = np.full((image.shape[0], 4, 3), 255, dtype=np.uint8)
    return np.concatenate([image, gap, outlined(image, labels), gap, outlined(image, found)], axis=1)


def _lines(rows: Sequence[Row], key: str) -> dict[str, Points]:
    lines: dict[str, Points] = {}
    for row in rows:
        for name, value in row.get(key, {}).items():
            lines.setdefault(name, []).append((row["step"], value))
    return lines


def _draw_panel(draw: ImageDraw.ImageDraw, panel: Panel, top: int, last: int) -> None:
    values = [value for points in panel.lines.values() for _, value in points if value > 0]
    low, high = (min(values), max(values)) if panel.logarithmic and values else (0.0, 1.0)
    if panel.logarithmic:
        low = math.floor(math.log10(low or 1))
        high = max(math.ceil(math.log10(high)), low + 1)
    bottom, right = top + _HEIGHT - _MARGIN, _WIDTH - 170

    def at(step: float, value: float) -> tuple[float, float]:
        up = math.log10(max(value, 1e-12)) if panel.logarithmic else value
        part = min(max((up - low) / (high - low), 0), 1)
        return _LEFT + step / last * (right - _LEFT), bottom - part * (bottom - top - _MARGIN)

    ticks = [10.0**n for n in range(int(low), int(high) + 1)] if panel.logarithmic else [n / 5 for n in range(6)]
    for tick in ticks:
        y = at(0, tick)[1]
        draw.line((_LEFT, y, right, y), fill=_GREY)
        draw.text((_LEFT - 6, y), f"{tick:g}", fill=_BLACK, anchor="rm")
    for step in np.linspace(0, last, 6):
        draw.text((at(step, 1)[0], bottom + 6), f"{step:.0f}", fill=_BLACK, anchor="mt")
    draw.text((_LEFT, top + 8), panel.title, fill=_BLACK)
    for number, (name, points) in enumerate(panel.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = [at(*point) for point in points]
        if len(path) > 1:
            draw.line(path, fill=colour, width=2)
        else:
            draw.ellipse([path[0][0] - 2, path[0][1] - 2, path[0][0] + 2, path[0][1] + 2], fill=colour)
        draw.text((right + 12, top + _MARGIN + 16 * number), f"{name}  {points[-1][1]:.4g}", fill=colour)


def _write(path: Path, picture: Image.Image) -> None:
    with environment_faults(path), replacing(path) as temporary:
        picture.save(temporary, "PNG")
