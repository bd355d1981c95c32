"""TorchScript files: programs of torch's operations, read without Python's pickle.

Such a program can compute anything, for any length of time, but it reaches the outside only through operations that
read or write files. Programs with one of those are refused by their source, which the file contains. That is a
second lock, not a licence to run files of strangers.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import torch
from torch import nn

from wsiseg.errors import ModelError

_MOST_SOURCE = 20_000_000  # bytes
# Operations that touch files, and methods that run while a file is loaded.
_REFUSED = re.compile(r"\b(from_file|save|load_tensor|load|open|__setstate__)\s*\(")
_NAMESPACES = re.compile(r"\bops\.(\w+)\.")
_KNOWN_NAMESPACES = ("prim", "aten", "quantized", "torchvision")


def load_script(path: Path) -> nn.Module:
    """A TorchScript program in evaluation mode, on the CPU.

    Raises
    ------
    ModelError
        No TorchScript file, a damaged one, or one with operations that touch files.
    """
    _inspect(path)
    try:
        program: nn.Module = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: damaged TorchScript file ({text}). Copy it again.") from error
    return program.eval()


def is_script(path: Path) -> bool:
    """Whether a file is an archive with a TorchScript program."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _inspect(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if "/code/" in entry.filename]
            names = [entry.filename for entry in archive.infolist()]
            sources = [entry for entry in entries if entry.filename.endswith(".py")]
            if not sources:
                raise ModelError(
                    f"{path}: not a TorchScript file. A pickled module could run any code and is refused: save "
                    "torch.jit.trace(module, example) with its method save."
                )
            if len(set(names)) != len(names) or sum(entry.file_size for entry in sources) > _MOST_SOURCE:
                raise ModelError(f"{path}: its archive is not one that torch writes; refused")
            text = "\n".join(archive.read(entry).decode("utf-8") for entry in sources)
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, EOFError) as error:
        raise ModelError(
            f"{path}: not a TorchScript file, or a damaged one ({error}). A manifest's .pt is what "
            "torch.jit.trace(module, example).save wrote; pickled modules are refused."
        ) from error
    refused = {match.group(1) for match in _REFUSED.finditer(text)}
    refused |= {name for name in _NAMESPACES.findall(text) if name not in _KNOWN_NAMESPACES}
    if refused:
        raise ModelError(
            f"{path}: the program uses {', '.join(sorted(refused))}, which can touch files or is not torch's own; "
            "refused. Export the network alone."
        )
