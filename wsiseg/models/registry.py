"""Models by name, and weight files by path."""

from __future__ import annotations

from pathlib import Path

from wsiseg.errors import ModelError
from wsiseg.models.base import ModelCard, Segmenter
from wsiseg.models.weights_io import SUFFIXES, load_weights, read_header

DEFAULT_MODEL = "unet-0.5"
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


def load_segmenter(model: str, *, device: str = "auto", precision: str = "auto") -> Segmenter:
    """A ready segmenter.

    Parameters
    ----------
    model : str
        A name of :func:`list_models`, or the path of a weight file (``.safetensors``, ``.pt``, ``.pth``).
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ignored by ``classical``.
    precision : str
        ``auto`` (bf16 where the hardware has it), ``fp32`` or ``bf16``; ignored by ``classical``.

    Raises
    ------
    ModelError
        No such model, or weights that cannot be used.
    UsageError
        No such device or precision.
    """
    if model == CLASSICAL.name:
        from wsiseg.models.classical import ClassicalSegmenter

        return ClassicalSegmenter()
    path = WEIGHTS / f"{model}.safetensors"
    if not path.is_file():
        path = Path(model)
        if path.suffix not in SUFFIXES:
            names = ", ".join(card.name for card in list_models())
            raise ModelError(
                f"model {model!r}: neither a model of this package ({names}) "
                f"nor a weight file ({', '.join(SUFFIXES)})"
            )
    weights = load_weights(path)
    # Only here: torch takes a second to import, and a wrong name should not cost it.
    from wsiseg.models.engine import place
    from wsiseg.models.network import network_segmenter

    return network_segmenter(weights, place(device, precision))
