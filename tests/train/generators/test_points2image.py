"""Points2Image: the point loss against inversion, losses, pool, and a training that goes on exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from wsiseg.errors import ModelError, UsageError  # noqa: E402
from wsiseg.synth.parts import Layout  # noqa: E402
from wsiseg.synth.renderers.networkfile import write_networks  # noqa: E402
from wsiseg.synth.renderers.points2image.maps import layout_maps  # noqa: E402
from wsiseg.synth.renderers.points2image.networks import NetworkPair, invert  # noqa: E402
from wsiseg.synth.renderers.points2image.options import Points2ImageOptions  # noqa: E402
from wsiseg.synth.samplers.ellipses import EllipsesOptions, place_ellipses  # noqa: E402
from wsiseg.synth.samplers.points import centroids  # noqa: E402
from wsiseg.testing.conformance.synthesis import RENDERER_CHECKS, Case, check_nuclei_show  # noqa: E402
from wsiseg.testing.training import Interrupted, interrupted_after, write_folder  # noqa: E402
from wsiseg.train.generators.points2image.discriminator import ImagePool, PatchDiscriminator  # noqa: E402
from wsiseg.train.generators.points2image.losses import Weights, point_loss, role_losses  # noqa: E402
from wsiseg.train.generators.run import train_generator  # noqa: E402
from wsiseg.train.journal import read_log  # noqa: E402
from wsiseg.train.run import TrainOptions  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = TrainOptions(device="cpu", threads=1, workers=1, checkpoint_s=0.0)  # after each step
TABLES: dict[str, Any] = {
    "name": "tiny",
    "summary": "a tiny generator of discs",
    "licence": "CC0-1.0",
    "system": "points2image",
    "steps": 4,
    "batch": 2,
    "every": 4,
    "seed": 3,
    "network": {
        "widths": [8, 8, 4],
        "noise": 4,
        "spade": 4,
        "inverse_mode": "fast",
        "inverse_divisor": 8,
    },
    "method": {"discriminator": 4, "pool": 3},
    "data": {
        "mpp": 0.5,
        "side": 32,
        "train": [{"kind": "folder", "data": "discs", "mpp": 0.5}],
    },
}
# Whether nuclei show is for networks that have learnt something.
CHECKS = tuple(check for check in RENDERER_CHECKS if check is not check_nuclei_show)


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "discs", 2, height=96, width=96)


@pytest.fixture(scope="module")
def trained(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TABLES, discs, tmp_path_factory.mktemp("run"))


def train(tables: dict[str, Any], discs: Path, out: Path, stop_after: int = 0) -> Path:
    return train_generator(tables, "", {"discs": discs}, out, OPTIONS, interrupted_after(stop_after)).weights


# --- the inversion of nuclei and background --------------------------------------------------------------------


class Threshold(nn.Module):
    """An F that takes dark pixels for nuclei, or, swapped, pale ones."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        self.sign = 1.0 if swapped else -1.0

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logit = 6.0 * self.sign * images.mean(dim=1, keepdim=True)
        return {"np": torch.cat([-logit, logit], dim=1), "hv": torch.zeros_like(images[:, :2])}


def world() -> tuple[Tensor, Tensor, list[Tensor]]:
    """Real images of dark nuclei, layouts with nuclei at the same points, and these points."""
    labels = np.zeros((2, 32, 32), dtype=np.int32)
    labels[0, 4:12, 6:14], labels[0, 20:28, 18:24], labels[1, 10:20, 10:20] = 1, 2, 1
    maps = torch.from_numpy(np.stack([layout_maps(label) for label in labels]))
    real = (1 - 2 * maps[:, 2:]).expand(-1, 3, -1, -1)
    points = [torch.from_numpy(np.rint(centroids(label)[:, ::-1]).astype(np.int64)) for label in labels]
    return real, maps, points


def total(swapped: bool, points: float) -> float:
    """The terms for a G and an F that both swap nuclei and background, or neither."""
    real, maps, places = world()
    inverse = Threshold(swapped)
    generated = -real if swapped else real  # pale nuclei on a dark ground
    terms = role_losses(invert(inverse, generated), invert(inverse, real), maps, places, Weights(points=points))
    return float(torch.stack(list(terms.values())).sum())


def test_without_the_point_loss_a_swap_of_nuclei_and_background_costs_nothing() -> None:
    assert total(swapped=True, points=0.0) == pytest.approx(total(swapped=False, points=0.0), rel=1e-6)


def test_with_the_point_loss_the_swap_is_worse() -> None:
    assert total(swapped=True, points=1.0) > total(swapped=False, points=1.0) + 5


@pytest.mark.parametrize(("weight", "swaps"), [(0.0, True), (1.0, False)])
def test_points_decide_a_game_that_begins_a_little_swapped(weight: float, swaps: bool) -> None:
    """One number says how dark G paints nuclei, one how F reads darkness; both begin a little the wrong way."""
    real, maps, points = world()
    paint, read = (nn.Parameter(torch.tensor(x)) for x in (0.05, 0.05))  # above 0: pale
    optimiser = torch.optim.SGD([paint, read], 0.05)

    def found(images: Tensor) -> dict[str, Tensor]:
        logit = 6 * read * images.mean(dim=1, keepdim=True)
        return {"np": torch.cat([-logit, logit], dim=1), "hv": torch.zeros_like(images[:, :2])}

    for _ in range(60):
        generated = torch.tanh(paint * 2) * (2 * maps[:, 2:] - 1).expand(-1, 3, -1, -1)
        terms = role_losses(found(generated), found(real), maps, points, Weights(1, 1, 1, 1, weight))
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    assert (float(read.detach()) > 0) == swaps
    assert (float(paint.detach()) > 0) == swaps


# --- parts -------------------------------------------------------------------------------------------------------


def test_maps_run_from_minus_one_over_the_centroid_to_one() -> None:
    labels = np.zeros((9, 12), dtype=np.int32)
    labels[2:5, 3:8] = 4
    horizontal, vertical, nuclei = layout_maps(labels)
    assert np.allclose(horizontal[3, 3:8], [-1, -0.5, 0, 0.5, 1])
    assert np.allclose(vertical[2:5, 4], [-1, 0, 1])
    assert np.array_equal(nuclei > 0, labels > 0)
    assert np.allclose(centroids(labels), [[5, 3]])
    assert layout_maps(np.zeros_like(labels)).any() == np.False_


def test_the_point_loss_of_no_points_is_zero() -> None:
    logits = torch.randn(2, 2, 8, 8, requires_grad=True)
    loss = point_loss(logits, [torch.zeros((0, 2), dtype=torch.int64)] * 2)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_the_pool_gives_back_earlier_images() -> None:
    pool, rng = ImagePool(4), np.random.default_rng(0)
    seen = [pool.exchange(rng, torch.full((2, 1, 1, 1), float(n))) for n in range(30)]
    assert torch.equal(seen[0], torch.zeros(2, 1, 1, 1))
    older = [float(value) < n for n, batch in enumerate(seen) for value in batch]
    assert 0.3 < np.mean(older) < 0.6
    assert len(pool.state()) == 4


def test_the_discriminator_sees_patches_of_70_pixels() -> None:
    network = PatchDiscriminator(3, 4).eval()
    image = torch.zeros(1, 3, 256, 256, requires_grad=True)
    opinion = network(image)
    assert opinion.shape == (1, 1, 30, 30)
    opinion[0, 0, 15, 15].backward()
    rows = torch.nonzero(image.grad.abs().sum(dim=(0, 1, 3)))
    assert int(rows.max() - rows.min()) + 1 == 70


# --- training -----------------------------------------------------------------------------------------------------


def test_a_training_that_is_stopped_ends_with_the_weights_of_one_that_is_not(
    trained: Path, discs: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(TABLES, discs, tmp_path, stop_after=3)
    again = train(TABLES, discs, tmp_path)
    assert again.read_bytes() == trained.read_bytes()
    log = read_log(tmp_path)
    assert [row["step"] for row in log if "loss" in row] == [0, 3]
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step-0000004.png"]
    assert (tmp_path / "curves.png").is_file()
    assert {"diversity", "at_points", "elsewhere"} <= set(log[-1]["likeness"])


def test_the_renderer_draws_a_layout_the_same_for_the_same_seed(trained: Path) -> None:
    render = Points2ImageOptions(trained).build(0.5)
    points = np.random.default_rng(1).uniform(0, 44, (6, 2))
    layout = Layout(place_ellipses(np.random.default_rng(2), EllipsesOptions(), points, 45))
    one, same, other = (render(np.random.default_rng(seed), layout, 45, None) for seed in (5, 5, 6))
    assert one.image.shape == (45, 45, 3)
    assert np.array_equal(one.instances, layout.instances)
    assert np.array_equal(one.image, same.image)
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_renderer_conforms(check: Callable[[Case], None], trained: Path) -> None:
    check(Case(EllipsesOptions(), Points2ImageOptions(trained), None, 64, 0.5))


def test_what_a_renderer_refuses(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0\.5"):
        Points2ImageOptions(trained).build(0.25)
    with pytest.raises(UsageError, match="sampler"):
        Points2ImageOptions(trained).build(0.5)(np.random.default_rng(0), None, 32, None)
    write_networks(tmp_path / "other.safetensors", "other", {}, {})
    with pytest.raises(ModelError, match="expected 'wsiseg-points2image-1'"):
        NetworkPair.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("data", "side"), 36, "multiple of 8"),
        (("method", "rat"), 1, "rate"),
        (("network", "inverse_mode"), "slow", "no mode"),
        (("system",), "cyclegan", "points2image"),
    ],
)
def test_recipes_that_cannot_be(
    place: tuple[str, ...], value: object, words: str, discs: Path, tmp_path: Path
) -> None:
    tables = copy.deepcopy(TABLES)
    at = tables
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(UsageError, match=words):
        train(tables, discs, tmp_path)
