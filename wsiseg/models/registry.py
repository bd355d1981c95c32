"""Models by name, and weight files by path."""

from __future__ import annotations

from pathlib import Path

from wsiseg.errors import ModelError
from wsiseg.models.base import ModelCard, Segmenter
from wsiseg.models.weights_io import SUFFIXES, load_weights, read_header

DEFAULT_MODEL = "unet-0.5"
CHECKPOINT, MANIFEST = ".tar", ".toml"
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
    model: str, *, device: str = "auto", precision: str = "auto", engine: str = "auto"
) -> Segmenter:
    """A ready segmenter.

    Parameters
    ----------
    model : str
        A name of :func:`list_models`, or the path of a weight file (``.safetensors``, ``.pt``, ``.pth``), of a
        published checkpoint of HoVer-Net (``.tar``) or of a manifest (``.toml``).
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ignored by ``classical``.
    precision : str
        ``auto`` (bf16 where the hardware has it; fp32 for manifests), ``fp32`` or ``bf16``; ignored by
        ``classical``.
    engine : str
        ``auto`` (OpenVINO for ONNX files, else torch), ``torch`` or ``openvino``; ignored by ``classical``.

    Raises
    ------
    ModelError
        No such model, or weights that cannot be used.
    UsageError
        No such device, precision or engine.
    """
    if model == CLASSICAL.name:
        from wsiseg.models.classical import ClassicalSegmenter

        return ClassicalSegmenter()
    path = find_model(model)
    # Only here: torch takes a second to import, and a wrong name should not cost it.
    if path.suffix == MANIFEST:
        from wsiseg.models.foreign import foreign_segmenter

        return foreign_segmenter(path, device, precision, engine)
    from wsiseg.models.engine import place
    from wsiseg.models.network import hovernet_segmenter, network_segmenter

    if path.suffix == CHECKPOINT:
        return hovernet_segmenter(path, place(device, precision, engine))
    return network_segmenter(load_weights(path), place(device, precision, engine))


def find_model(model: str) -> Path:
    """The file of a model's name, or the path itself if a file of that kind can be a model.

    Raises
    ------
    ModelError
        Neither.
    """
    path = WEIGHTS / f"{model}.safetensors"
    if path.is_file():
        return path
    path = Path(model)
    if path.suffix in (".onnx", ".pt2", ".ts"):
        raise ModelError(f"model {model!r}: a network of others needs a manifest (.toml); see docs/models.md")
    if path.suffix not in (*SUFFIXES, CHECKPOINT, MANIFEST):
        names = ", ".join(card.name for card in list_models())
        raise ModelError(
            f"model {model!r}: neither a model of this package ({names}) nor a file of weights "
            f"({', '.join(SUFFIXES)}), a checkpoint of HoVer-Net ({CHECKPOINT}) or a manifest ({MANIFEST})"
        )
    return path
