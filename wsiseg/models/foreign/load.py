"""Networks that others bring, as TorchScript or ONNX with a manifest: checked, run on trial, made segmenters.

Published checkpoints of HoVer-Net may have a manifest too, which names them and their types.

A plain pickled module is refused, and so is ``torch.export``'s format: loading either can run any code. TorchScript
is a program of torch's operations, of which the few that read or write files are refused
(:mod:`wsiseg.models.foreign.torchscript`); ONNX is a graph of operations on numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.errors import ModelError, UsageError, WsisegError
from wsiseg.models.engine.engine import Engine, place
from wsiseg.models.files import require_file, sha256_of
from wsiseg.models.foreign.manifest import Manifest, read_manifest
from wsiseg.models.foreign.onnxfile import require_whole
from wsiseg.models.foreign.outputs import OnnxNetwork, ScriptNetwork
from wsiseg.models.foreign.torchscript import load_script
from wsiseg.models.network import NetworkSegmenter, hovernet_segmenter
from wsiseg.models.weightfile import CHECKPOINT, Named

SCRIPT_SUFFIXES = (".pt", ".pth", ".ts")
_TRIAL_PX = 96


def foreign_segmenter(path: Path, device: str, precision: str, engine: str) -> NetworkSegmenter:
    """The segmenter that a manifest describes, after a trial run.

    ``auto`` precision is float32: nobody has looked at such a network's maps in bfloat16. A published checkpoint
    runs as it does without a manifest.

    Raises
    ------
    ModelError
        The manifest or the file cannot be used, or the network does not do what the manifest says.
    UsageError
        An engine that does not run such files.
    """
    manifest = read_manifest(path)
    digest = _checked(manifest)
    if manifest.interface is None:
        placement = place(device, precision, engine)
        with _naming(manifest):
            return hovernet_segmenter(manifest.file, placement, manifest)
    onnx = manifest.file.suffix == ".onnx"
    if onnx:
        require_whole(manifest.file)
    if onnx and engine == "torch":
        raise UsageError(f"{manifest.file.name}: ONNX files are run by OpenVINO. Use --engine openvino or auto.")
    placement = place(device, "fp32" if precision == "auto" else precision, "openvino" if onnx else engine)
    network: Any
    if onnx:
        network = OnnxNetwork(manifest.file, manifest.interface)
    else:
        network = ScriptNetwork(load_script(manifest.file), manifest.interface)
    with _naming(manifest):
        ready = Engine(network, placement, manifest.head)
        _trial(ready)
    named = Named("onnx" if onnx else "torchscript", {k: manifest.content[k] for k in ("input", "head")})
    return NetworkSegmenter(
        manifest.card, digest, named, ready, manifest.decoder, manifest.margin_px, types=manifest.types
    )


def _checked(manifest: Manifest) -> str:
    """The SHA-256 of the network's file, after what can be said about the file."""
    path, name = manifest.file, manifest.file.name
    if path.suffix == ".pt2":
        raise ModelError(
            f"{name}: files of torch.export are refused: torch unpickles parts of them without restriction. "
            "Save torch.jit.trace(program.module(), example) or an ONNX file instead; see docs/models.md."
        )
    if path.suffix not in (*SCRIPT_SUFFIXES, ".onnx", CHECKPOINT):
        raise ModelError(
            f"{name}: expected TorchScript ({', '.join(SCRIPT_SUFFIXES)}), ONNX (.onnx) or a published checkpoint "
            f"of HoVer-Net ({CHECKPOINT})"
        )
    try:
        require_file(path)
        digest = sha256_of(path)
    except ModelError as error:
        raise ModelError(f"{error} {manifest.path} names it.") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); {manifest.path} names it") from error
    if manifest.sha256 is not None and digest != manifest.sha256:
        raise ModelError(
            f"{path}: its sha256 is {digest}, {manifest.path.name} says {manifest.sha256}. "
            "It is damaged or another file; copy it again."
        )
    return digest


def _trial(engine: Engine) -> None:
    """Run the network on images of two sizes that are not square, several at once where the engine will do so."""
    stride = engine.config.stride_px
    least = -(-_TRIAL_PX // stride)
    rng = np.random.default_rng(0)
    for rows, columns in ((least, least + 1), (least + 2, least)):
        image = rng.integers(0, 256, (rows * stride, columns * stride, 3), dtype=np.uint8)
        engine.run([image] * min(2, engine.placement.batch))


@contextlib.contextmanager
def _naming(manifest: Manifest) -> Iterator[None]:
    """Errors inside become ModelErrors that name the file and the manifest."""
    where = f"{manifest.file.name} does not fit {manifest.path}"
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    except WsisegError:
        raise
    except Exception as error:  # whatever a program of others raises
        text = " ".join(str(error).split())
        raise ModelError(f"{where}: it cannot be run ({text[-300:]})") from error
