"""Rendered patches of one scene each, as files: what a model finds of one kind of nucleus, measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.core.atomic import write_json
from wsiseg.core.environment import environment_faults
from wsiseg.errors import UsageError
from wsiseg.interop.snow import write_image
from wsiseg.synth.render import MPP, REVISION, RenderOptions, render_patch
from wsiseg.synth.scenes import NO_SCENES, Scenes
from wsiseg.synth.textures import Texture

ORDINARY = "ordinary"
SCENES = (ORDINARY, *(field.name for field in dataclasses.fields(Scenes)))
"""What patches there are: without any scene, and with one of each."""

_DEFAULTS = RenderOptions(size=400)


def write_truth(
    textures: Sequence[Texture],
    out: Path,
    scenes: Sequence[str],
    count: int,
    seed: int,
    options: RenderOptions = _DEFAULTS,
) -> dict[str, Any]:
    """Write ``count`` patches of each of ``scenes`` to a folder of its name in ``out``.

    In it ``images/0000.png``; ``labels/0000.png`` (16 bits), all nuclei; and ``own/0000.png``, the scene's alone,
    for the recall of them (where it has nuclei). The same patch of two scenes has the same texture.

    Parameters
    ----------
    textures : sequence of Texture
    scenes : sequence of str
        Of ``SCENES``.
    options : RenderOptions
        Their scenes have no effect.

    Returns
    -------
    dict
        ``path``, ``patches``, ``scenes``; ``truth.json`` in ``out`` has it too, with seed, options and mpp.

    Raises
    ------
    UsageError
        No such scene, no textures, or ``out`` holds something.
    EnvironmentFault
        The disk refuses.
    """
    for name in scenes:
        if name not in SCENES:
            raise UsageError(f"scene {name!r}: there is none of that name; expected one of {', '.join(SCENES)}")
    if not textures:
        raise UsageError("no textures; expected a folder of PNG, WebP or TIFF")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: is in the way; choose another -o")
    record = {"path": str(out), "patches": count * len(scenes), "scenes": list(scenes)}
    for name in scenes:
        only = NO_SCENES if name == ORDINARY else Scenes(**{name: 1.0})
        _write_scene(textures, out / name, count, seed, dataclasses.replace(options, scenes=only))
    drawn = {"seed": seed, "options": dataclasses.asdict(dataclasses.replace(options, scenes=NO_SCENES))}
    write_json(out / "truth.json", {**record, "revision": REVISION, "mpp": MPP, **drawn})
    return record


def _write_scene(textures: Sequence[Texture], folder: Path, count: int, seed: int, options: RenderOptions) -> None:
    patches = [render_patch(textures, seed, index, options) for index in range(count)]
    has_own = any(patch.of_scenes for patch in patches)
    with environment_faults(folder):
        for part in ("images", "labels", *(["own"] if has_own else [])):
            (folder / part).mkdir(parents=True)
    for index, patch in enumerate(patches):
        name = f"{index:04d}.png"
        labels = patch.labels.astype(np.uint16)
        write_image(folder / "images" / name, patch.image)
        write_image(folder / "labels" / name, labels)
        if has_own:
            write_image(folder / "own" / name, np.where(labels <= patch.of_scenes, labels, 0).astype(np.uint16))
