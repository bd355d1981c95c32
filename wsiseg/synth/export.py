"""Datasets of patches written for other programs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.core.atomic import lock_beside, read_json, sync_folder, write_json
from wsiseg.core.environment import environment_faults
from wsiseg.errors import UsageError
from wsiseg.interop import snow
from wsiseg.run.events import Listener, PatchesDone, ignore
from wsiseg.synth.dataset import open_dataset
from wsiseg.synth.sheet import outlined

NOTE = "dataset.json"


def export_snow(dataset: Path, out: Path, *, overlay: bool = False, on_event: Listener = ignore) -> dict[str, Any]:
    """Write a dataset in SNOW's layout: ``Image/seed0000.png``, ``Mask/seed0000.mat``, patch n as tile n.

    ``out`` gets its name when all is written; a stopped call goes on where it was when it is made again. Weights
    have no place in the layout. ``dataset.json`` keeps mpp and provenance.

    Parameters
    ----------
    dataset, out : Path
    overlay : bool
        Also ``Overlay/seed0000.png``, the image with its nuclei outlined.
    on_event : function, optional
        Told of :class:`wsiseg.run.events.PatchesDone`.

    Returns
    -------
    dict
        ``status`` (complete or unchanged), ``path``, ``tiles``.

    Raises
    ------
    UsageError
        No complete dataset, or ``out`` is something else.
    EnvironmentFault
        The disk refuses, or another run writes to ``out``.
    """
    source = open_dataset(dataset)
    count = len(source)
    note = {
        "schema": "wsiseg.snow", "version": 1, "tiles": count, "overlay": overlay,
        "mpp": source.mpp, "provenance": source.provenance,
    }  # fmt: skip
    record = {"path": str(out), "tiles": count}
    with lock_beside(out):
        if out.exists():
            if read_json(out / NOTE) == note:
                return {"status": "unchanged", **record}
            if not out.is_dir() or any(out.iterdir()):
                raise UsageError(f"{out}: is in the way; choose another -o")
        begun = out.with_name(f".{out.name}.begun")
        with environment_faults(out):
            if read_json(begun / NOTE) != note:
                shutil.rmtree(begun, ignore_errors=True)
                for name in (snow.IMAGE_FOLDER, snow.MASK_FOLDER):
                    (begun / name).mkdir(parents=True)
                write_json(begun / NOTE, note)
        for index in range(count):
            name = snow.tile_name(index)
            mask = begun / snow.MASK_FOLDER / f"{name}.mat"
            if not mask.exists():  # written last
                image, labels = np.asarray(source.image[index]), np.asarray(source.instances[index])
                snow.write_image(begun / snow.IMAGE_FOLDER / f"{name}.png", image)
                if overlay:
                    snow.write_image(begun / snow.OVERLAY_FOLDER / f"{name}.png", outlined(image, labels))
                snow.write_mask(mask, labels)
            if (index + 1) % 100 == 0 or index + 1 == count:
                on_event(PatchesDone(out.name, index + 1, count))
        with environment_faults(out):
            for left in begun.rglob(".*.tmp"):
                left.unlink(missing_ok=True)
            if out.exists():
                out.rmdir()
            begun.rename(out)
        sync_folder(out.parent)
    return {"status": "complete", **record}
