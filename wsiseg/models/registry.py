"""Models by name, and weight files by path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.errors import ModelError, UsageError
from wsiseg.models.base import ModelCard, Segmenter
from wsiseg.models.files import JOINT, identity, sha256_of
from wsiseg.models.weightfile import CHECKPOINT, SUFFIXES, load_weights, read_card, read_header

if TYPE_CHECKING:
    from wsiseg.models.network import NetworkSegmenter

DEFAULT_MODEL = "unet-0.5"
AUTO = "auto"
"""No model, but the wish that one be picked for each slide (:mod:`wsiseg.models.automatic`)."""
MANIFEST = ".toml"
WEIGHTS = Path(__file__).parent / "weights"
CLASSICAL = ModelCard(
    name="classical",
    summary="Colour deconvolution, a threshold and a watershed; no training, needs no weights",
    licence="Apache-2.0",
    limits=("pale and touching nuclei", "dark cytoplasm and stroma are taken for nuclei"),
)


def list_models() -> list[ModelCard]:
    """Cards of the models that come with the package, the default first."""
    cards = [ModelCard.from_dict(read_header(path)["card"]) for path in sorted(WEIGHTS.glob("*.safetensors"))]
    return sorted([*cards, CLASSICAL], key=lambda card: (card.name != DEFAULT_MODEL, card.name))


def load_segmenter(
    model: str, *, device: str = "auto", precision: str = "auto", engine: str = "auto", mirrors: bool = False
) -> Segmenter:
    """A ready segmenter.

    Parameters
    ----------
    model : str
        A name of :func:`list_models`, or the path of a weight file (``.safetensors``, ``.pt``, ``.pth``), of a
        published checkpoint of HoVer-Net (``.tar``) or of a manifest (``.toml``). Several of these joined by ``+``:
        the mean of their maps (:func:`wsiseg.models.network.join`).
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ignored by ``classical``.
    precision : str
        ``auto`` (bf16 where the hardware has it; fp32 for manifests), ``fp32`` or ``bf16``; ignored by
        ``classical``.
    engine : str
        ``auto`` (OpenVINO for ONNX files, else torch), ``torch`` or ``openvino``; ignored by ``classical``.
    mirrors : bool
        Average a network's maps over the four mirror images of each tile.

    Raises
    ------
    ModelError
        No such model, or weights that cannot be used.
    UsageError
        No such device, precision or engine, or ``mirrors`` of a model without a network.
    """
    if model == CLASSICAL.name:
        from wsiseg.models.classical import ClassicalSegmenter

        if mirrors:
            raise UsageError(f"--mirrors: the model {model!r} has no network whose maps could be averaged")
        return ClassicalSegmenter()
    files = model_files(model)
    before = identity(files)
    found = [_load_network(find_model(name), device, precision, engine) for name in joined_names(model)]
    if identity(files) != before:
        raise ModelError(f"{files[-1]}: was changed while it was read. Run the same command again.")
    for segmenter in found:
        segmenter.flips = mirrors
    if len(found) == 1:
        return found[0]
    from wsiseg.models.network import join

    return join(found)


def joined_names(model: str) -> tuple[str, ...]:
    """The models whose maps are averaged: the parts between ``+``, unless that is in the path of a file.

    Raises
    ------
    ModelError
        A part is empty, no network, or given twice.
    """
    names = tuple(model.split(JOINT))
    if len(names) == 1 or os.path.exists(model):
        return (model,)
    for name in names:
        if not name or name in (AUTO, CLASSICAL.name) or names.count(name) > 1:
            raise ModelError(
                f"model {model!r}: expected different networks joined by {JOINT}, got {name!r} among them"
            )
    return names


def model_files(model: str) -> tuple[Path, ...]:
    """The files that a model consists of, that which names it first; () for ``classical``.

    Raises
    ------
    ModelError
        No such model, or a manifest that cannot be used.
    """
    if model == CLASSICAL.name:
        return ()
    names = joined_names(model)
    if len(names) > 1:
        return tuple(file for name in names for file in model_files(name))
    path = find_model(model)
    if path.suffix != MANIFEST:
        return (path,)
    from wsiseg.models.foreign.manifest import read_manifest

    return path, read_manifest(path).file


def _load_network(path: Path, device: str, precision: str, engine: str) -> NetworkSegmenter:
    # Only here: torch takes a second to import, and a wrong name should not cost it.
    if path.suffix == MANIFEST:
        from wsiseg.models.foreign.load import foreign_segmenter

        return foreign_segmenter(path, device, precision, engine)
    from wsiseg.models.engine.engine import place
    from wsiseg.models.network import hovernet_segmenter, network_segmenter

    if path.suffix == CHECKPOINT:
        return hovernet_segmenter(path, place(device, precision, engine))
    return network_segmenter(load_weights(path), place(device, precision, engine))


def describe_model(model: str) -> dict[str, Any]:
    """All that a model's file says, as JSON: ``card``, ``file``, ``sha256``, and what is known of its network.

    No network is built; torch is imported for torch files only.

    Raises
    ------
    ModelError
        No such model, or a file that cannot be used.
    """
    if model == CLASSICAL.name:
        return {"card": CLASSICAL.to_dict(), "file": None}
    if len(joined_names(model)) > 1:
        raise ModelError(f"model {model!r}: are several; ask for one after the other")
    path = find_model(model)
    if path.suffix == MANIFEST:
        from wsiseg.models.foreign.manifest import read_manifest

        manifest = read_manifest(path)
        card = manifest.card.to_dict()
        rest = {key: value for key, value in manifest.content.items() if key not in card}
        types = {"types": list(manifest.types)} if manifest.types else {}
        return {"card": card, **rest, **types, "file": str(manifest.file)}
    if path.suffix == ".safetensors":
        content = read_header(path)
        card = read_card(path, content).to_dict()
    else:
        from wsiseg.models.network import NetworkSegmenter

        segmenter = load_segmenter(model, device="cpu", precision="fp32", engine="torch")
        assert isinstance(segmenter, NetworkSegmenter)
        content, card = segmenter.describe(), segmenter.card.to_dict()
    keys = ("network", "head", "decoder", "margin_px", "types")
    shown: dict[str, Any] = {key: content[key] for key in keys if key in content}
    return {"card": card, **shown, "file": str(path), "sha256": sha256_of(path)}


def locate_model(model: str) -> str:
    """A path as an absolute one; a name of a model of this package, ``auto`` and what is none of these as it is."""
    names = joined_names(model)
    if len(names) > 1:
        return JOINT.join(locate_model(name) for name in names)
    if model in (AUTO, CLASSICAL.name) or _packaged(model) is not None or not os.path.exists(model):
        return model
    return os.path.abspath(model)


def find_model(model: str) -> Path:
    """The file of a model's name, or the path itself if a file of that kind can be a model.

    Raises
    ------
    ModelError
        Neither.
    """
    packaged = _packaged(model)
    if packaged is not None:
        return packaged
    path = Path(model)
    if path.suffix in (".onnx", ".pt2", ".ts"):
        raise ModelError(f"model {model!r}: a network of others needs a manifest (.toml); see docs/models.md")
    names = ", ".join(card.name for card in list_models())
    if model == AUTO:
        raise ModelError(f"model {model!r}: `wsiseg segment` picks one for each slide; expected one ({names}) here")
    if path.suffix not in (*SUFFIXES, CHECKPOINT, MANIFEST):
        raise ModelError(
            f"model {model!r}: neither a model of this package ({names}) nor a file of weights "
            f"({', '.join(SUFFIXES)}), a checkpoint of HoVer-Net ({CHECKPOINT}) or a manifest ({MANIFEST})"
        )
    return path


def _packaged(model: str) -> Path | None:
    """The file of a model that comes with the package."""
    path = WEIGHTS / f"{model}.safetensors"
    return path if path.parent == WEIGHTS and path.is_file() else None
