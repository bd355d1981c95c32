"""TorchScript files: programs of torch's operations, read without Python's pickle.

Such a program can compute anything, for any length of time, but it reaches the outside only through operations that
read or write files. Programs with one of those are refused by their source, which the file contains. That is a
second lock, not a licence to run files of strangers.

The archive is read as torch reads it, by torch's own reader: another one could be shown other files. The source is
parsed, not searched: comments, continued lines, strings in parts and other names for an operation hide nothing.
"""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from wsiseg.errors import ModelError
from wsiseg.models.files import require_honest

_MOST_SOURCE = 20_000_000  # bytes
_REFUSED = frozenset(("from_file", "save", "load", "load_tensor", "open", "rpc_async", "rpc_remote", "rpc_sync"))
"""Operations of ``torch`` and ``ops`` that touch files or other machines."""
_NAMESPACES = ("prim", "aten", "quantized", "torchvision")
_WHILE_LOADING = (("annotate",), ("torch", "device"))
"""What constants and default values, which are computed while a file is loaded, may call."""


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
        require_honest(path)
        reader = torch._C.PyTorchFileReader(str(path))
        names = reader.get_all_records()
        sources = [name for name in names if name.lower().startswith("code/") and name.lower().endswith(".py")]
        if not sources:
            raise ModelError(
                f"{path}: not a TorchScript file. A pickled module could run any code and is refused: save "
                "torch.jit.trace(module, example) with its method save."
            )
        # The reader finds names in capitals as well. Where model.json is, files of other names are source.
        known = {name.lower() for name in names}
        if len(known) != len(names) or "model.json" in known:
            raise ModelError(f"{path}: its archive is not one that torch writes; refused")
        texts = [reader.get_record(name).decode("utf-8") for name in sources]
        classes = [name for name in names if name.endswith(".pkl") and _names_a_class(reader.get_record(name))]
    except (OSError, RuntimeError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path}: not a TorchScript file, or a damaged one ({' '.join(str(error).split())[:200]}). A "
            "manifest's .pt is what torch.jit.trace(module, example).save wrote; pickled modules are refused."
        ) from error
    if sum(map(len, texts)) > _MOST_SOURCE:
        raise ModelError(f"{path}: its archive is not one that torch writes; refused")
    refused = {f"a class of an extension ({name})" for name in classes}
    for name, text in zip(sources, texts, strict=True):
        try:
            refused.update(_refused(ast.parse(text)))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ModelError(f"{path}: {name} in it is not source that torch writes; refused") from error
    if refused:
        raise ModelError(
            f"{path}: the program uses {', '.join(sorted(refused))}, which can touch files or is not torch's own; "
            "refused. Export the network alone."
        )


def _names_a_class(pickled: bytes) -> bool:
    """Whether a pickle names a class that is written in C++; those of quantised layers hold numbers only."""
    return b"torch.classes." in pickled.replace(b"torch.classes.quantized", b"")


def _refused(source: ast.Module) -> Iterator[str]:
    """What a program must not use, among what it uses."""
    nodes = list(ast.walk(source))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name == "__setstate__":  # runs while the file is loaded
            yield node.name
        path = _path(node) if id(node) not in inner else ()
        if path[:1] == ("torch",) and (len(path) < 2 or path[1] in _REFUSED):
            yield path[-1]
        if path[:1] == ("ops",) and (len(path) < 3 or path[1] not in _NAMESPACES or path[2] in _REFUSED):
            yield ".".join(path)
        if path[:3] == ("__torch__", "torch", "classes") and path[3:4] != ("quantized",):
            yield ".".join(path)
    for call in _calls_while_loading(source):
        if _path(call.func) not in _WHILE_LOADING:
            yield f"a call in a constant or default value (line {call.lineno})"


def _calls_while_loading(node: ast.AST) -> Iterator[ast.Call]:
    """The calls outside the bodies of functions."""
    if isinstance(node, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node.args if isinstance(node, ast.FunctionDef) else node):
        yield from _calls_while_loading(child)


def _path(node: ast.AST) -> tuple[str, ...]:
    """``a.b.c`` as a tuple; () for anything else."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        before = _path(node.value)
        return (*before, node.attr) if before else ()
    return ()
