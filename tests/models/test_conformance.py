"""Every decoder and every model passes the suite that all of its kind have to pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wsiseg.models.base import Image, Segmenter  # noqa: E402
from wsiseg.models.decoders import DECODERS, build_decoder  # noqa: E402
from wsiseg.models.heads import HEADS  # noqa: E402
from wsiseg.models.registry import list_models, load_segmenter  # noqa: E402
from wsiseg.testing.conformance import decoder as decoders  # noqa: E402
from wsiseg.testing.conformance import segmenter as segmenters  # noqa: E402
from wsiseg.testing.decoding import (  # noqa: E402
    discs,
    ellipses,
    hover_maps,
    perfect_maps,
    seed_maps,
    star_maps,
)
from wsiseg.testing.foreign import bring  # noqa: E402
from wsiseg.testing.images import stained  # noqa: E402

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")]

SIDE = 240
SMALL = {"mpp": 0.5, "max_diameter_um": 14.0}  # as large as the nuclei are: smaller margins


def decoder_case(name: str) -> decoders.Case:
    head = next(head for head in HEADS.values() if name in head.decoders)
    decoder = build_decoder(name, SMALL)
    if name == "offsets":
        maps = perfect_maps(discs(SIDE, 1))
    else:
        labels = ellipses(SIDE, 1)
        apart = np.where(labels % 4 == 0, labels, 0)  # rays of each pixel take long to find
        draw = {"seeds": seed_maps, "star": lambda labels, seed: star_maps(apart)}.get(name, hover_maps)
        maps = draw(labels, 1)
    read = maps[: len([item for item in head.inputs if not head.maps[item].optional])]
    return decoders.Case(decoder, head, read, head.calibrate([read], decoder))


@pytest.fixture(scope="module")
def cases() -> dict[str, decoders.Case]:
    return {name: decoder_case(name) for name in DECODERS}


@pytest.mark.parametrize("check", decoders.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str, check: Callable[[decoders.Case], None], cases: dict[str, decoders.Case]) -> None:
    check(cases[name])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Segmenter]:
    """Models by name; "foreign" is one that its manifest describes."""
    made: dict[str, Segmenter] = {}

    def load(name: str) -> Segmenter:
        if name not in made:
            model = str(bring(tmp_path_factory.mktemp("foreign"))) if name == "foreign" else name
            made[name] = load_segmenter(model, device="cpu")
        return made[name]

    return load


@pytest.fixture(scope="module")
def tissue() -> Image:
    """Of a side that every model's margins leave room in."""
    return stained(3, 448, 160)


@pytest.mark.parametrize("check", segmenters.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", [*(card.name for card in list_models()), "foreign"])
def test_models(
    name: str,
    check: Callable[[Segmenter, Image], None],
    models: Callable[[str], Segmenter],
    tissue: Image,
) -> None:
    check(models(name), tissue)
