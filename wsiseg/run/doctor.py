"""What a run needs, looked at on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``essential``: without it nothing runs."""

    ok: bool
    text: str
    essential: bool = True

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_LIBRARIES = (
    "dask", "distributed", "openslide-python", "zarr", "tifffile", "imagecodecs", "simplejpeg", "torch",
    "shapely", "geopandas", "pyarrow", "numpy", "scipy", "numba",
)  # fmt: skip


def examine() -> list[Finding]:
    """Look at libraries, codecs, the machine and the default model; nothing is changed or downloaded."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    findings = [
        _system(os.name, platform.system()),
        Finding(supported, f"Python {platform.python_version()} (3.11 to 3.13 are supported)"),
    ]
    findings += [_library(name) for name in _LIBRARIES]
    findings += [_codecs(), _compiled(), _machine(), _device(), _model()]
    return findings


def _system(kind: str, name: str) -> Finding:
    """``kind`` as Python's os module says it."""
    advice = "" if kind == "posix" else ": install Linux beside it (wsl --install) and wsiseg in there"
    return Finding(kind == "posix", f"{name} (Linux and macOS are supported){advice}")


def _library(name: str) -> Finding:
    try:
        return Finding(True, f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
        return Finding(False, f"{name} is not installed: pip install {name}")


def _codecs() -> Finding:
    """Encode and decode a small image with both codecs that slides use."""
    try:
        import imagecodecs
        import openslide
        import simplejpeg

        image = np.full((16, 16, 3), 200, dtype=np.uint8)
        for encode, decode in (
            (simplejpeg.encode_jpeg, simplejpeg.decode_jpeg),
            (imagecodecs.jpeg2k_encode, imagecodecs.jpeg2k_decode),
        ):
            if decode(encode(image)).shape != image.shape:
                return Finding(False, "the JPEG codecs do not round-trip: reinstall imagecodecs and simplejpeg")
        return Finding(True, f"JPEG and JPEG 2000 decode; OpenSlide {openslide.__library_version__}")
    except Exception as error:  # whatever a broken native library raises is the finding
        return Finding(False, f"image codecs: {error}. Reinstall imagecodecs, simplejpeg and openslide-bin.")


def _compiled() -> Finding:
    from wsiseg.core.compiled import cache_folder

    folder = cache_folder()
    if folder is None:
        advice = "no folder for compiled functions can be written: each process makes its own, which takes a minute"
        return Finding(False, f"{advice}. Set NUMBA_CACHE_DIR to a folder of yours.", essential=False)
    return Finding(True, f"compiled functions are kept in {folder}")


def _machine() -> Finding:
    import psutil

    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    memory = psutil.virtual_memory().available / 2**30
    enough = memory / cores >= 2
    advice = "" if enough else "; give fewer --workers: a worker wants about 2 GiB"
    text = f"{cores} cores, {memory:.0f} GiB of memory available, {_free_here()}{advice}"
    return Finding(enough, text, essential=False)


def _free_here() -> str:
    try:
        return f"{shutil.disk_usage('.').free / 2**30:.0f} GiB free on this disk"
    except OSError as error:
        return f"the current folder cannot be looked at ({error.strerror})"


def _device() -> Finding:
    from wsiseg.models.engine.devices import cuda_device_count

    count = cuda_device_count()
    text = f"{count} CUDA device(s)" if count else "no CUDA device: networks run on the processor"
    return Finding(count > 0, text, essential=False)


def _model() -> Finding:
    from wsiseg.models.registry import DEFAULT_MODEL, load_segmenter

    try:
        segmenter = load_segmenter(DEFAULT_MODEL, device="cpu")
        found = segmenter.segment([np.full((256, 256, 3), 255, dtype=np.uint8)], {})
    except Exception as error:
        return Finding(False, f"the default model {DEFAULT_MODEL} does not run: {error}")
    return Finding(len(found[0]) == 0, f"the default model {DEFAULT_MODEL} loads and finds nothing on white")
