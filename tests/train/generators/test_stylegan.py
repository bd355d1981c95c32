"""StyleGAN2 with adaptive augmentation: its parts by what they promise, and a training that goes on exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wsiseg.errors import UsageError  # noqa: E402
from wsiseg.synth.parts import Layout  # noqa: E402
from wsiseg.synth.renderers.stylegan.networks import StyleGan, StyleGanConfig, enlarged  # noqa: E402
from wsiseg.synth.renderers.stylegan.options import SnowOptions, annotate, image_of  # noqa: E402
from wsiseg.testing.conformance.synthesis import RENDERER_CHECKS, Case, check_nuclei_show  # noqa: E402
from wsiseg.testing.training import Interrupted, discs, interrupted_after, write_folder  # noqa: E402
from wsiseg.train.generators.run import train_generator  # noqa: E402
from wsiseg.train.generators.stylegan.augment import adapted, augmented  # noqa: E402
from wsiseg.train.generators.stylegan.discriminator import Discriminator, differences  # noqa: E402
from wsiseg.train.generators.stylegan.losses import gradient_penalty, path_lengths  # noqa: E402
from wsiseg.train.run import TrainOptions  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = StyleGanConfig((8, 8, 8, 4), 8, 2)
OPTIONS = TrainOptions(device="cpu", threads=1, workers=1, checkpoint_s=0.0)  # after each step
TABLES: dict[str, Any] = {
    "name": "tiny",
    "summary": "a tiny generator of discs",
    "licence": "CC0-1.0",
    "system": "stylegan",
    "steps": 5,
    "batch": 4,
    "every": 5,
    "seed": 3,
    "network": {"widths": [8, 8, 8, 4], "code": 8, "layers": 2},
    "method": {"thousands": 0.01, "target": 0.1, "target_every": 1, "gradient_every": 2},
    "data": {
        "mpp": 0.5,
        "side": 32,
        "train": [{"kind": "images", "data": "discs", "mpp": 0.5, "overlap": 0.5}],
    },
}
# Whether nuclei show is for networks that have learnt something.
CHECKS = tuple(check for check in RENDERER_CHECKS if check is not check_nuclei_show)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "discs", 2, height=96, width=96) / "images"


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(images, tmp_path_factory.mktemp("run"))


def train(images: Path, out: Path, stop_after: int = 0) -> Path:
    return train_generator(TABLES, "", {"discs": images}, out, OPTIONS, interrupted_after(stop_after)).weights


def test_a_style_for_each_layer_and_images_of_the_size_that_the_widths_give() -> None:
    made = StyleGan.new(CONFIG, 0.5, 0)
    styles = made.styles(torch.randn(3, 8))
    assert styles.shape == (3, 8, 8)
    assert made.synthesis(styles).shape == (3, 3, 32, 32)
    assert StyleGanConfig().side == 512


def test_demodulated_layers_keep_the_variance_whatever_the_style() -> None:
    torch.manual_seed(0)
    layer = StyleGan.new(StyleGanConfig((64, 64), 16, 1), 0.5, 0).synthesis.plain[1].conv
    x = torch.randn(4, 64, 16, 16)
    for strength in (0.2, 5.0):
        style = torch.randn(4, 16) * strength
        inner = layer(x, style)[..., 1:-1, 1:-1]
        assert float(inner.std().detach()) == pytest.approx(1.0, rel=0.15)


def test_enlarging_keeps_what_is_flat() -> None:
    assert torch.allclose(enlarged(torch.ones(1, 2, 8, 8))[..., 2:-2, 2:-2], torch.tensor(1.0))


def test_truncation_leads_to_the_mean_style() -> None:
    made = StyleGan.new(CONFIG, 0.5, 0)
    made.mapping.mean.fill_(0.3)
    codes = torch.randn(2, 8)
    assert torch.allclose(made.styles(codes, 0.0), torch.tensor(0.3))
    assert not torch.allclose(made.styles(codes, 0.5), made.styles(codes))


def test_the_discriminator_is_told_how_images_of_a_group_differ() -> None:
    same = torch.randn(1, 3, 4, 4).expand(4, -1, -1, -1)
    assert float(differences(same).max()) < 1e-3
    assert float(differences(torch.randn(8, 3, 4, 4)).min()) > 0.3
    assert differences(torch.randn(6, 3, 4, 4)).shape == (6, 1, 4, 4)


# --- augmentation -------------------------------------------------------------------------------------------------


def test_no_probability_no_change() -> None:
    x = torch.randn(2, 3, 16, 16)
    assert augmented(x, 0.0) is x


def test_a_vanishing_probability_leaves_pixels_where_they_are() -> None:
    x = torch.rand(3, 3, 16, 16)
    assert torch.allclose(augmented(x, 1e-12), x, atol=1e-4)


def test_augmentation_varies_images_and_stays_in_their_range_of_places() -> None:
    torch.manual_seed(0)
    x = torch.zeros(64, 3, 16, 16)
    flat = augmented(x, 1.0).var(dim=(2, 3))
    assert float(flat.max()) < 1e-8  # nothing comes from outside a flat image, and colours change as a whole
    x = torch.rand(1, 3, 16, 16).expand(32, -1, -1, -1)
    assert float(augmented(x, 0.5).std(dim=0).mean()) > 0.1


def test_augmentation_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    network = Discriminator(CONFIG)
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    gradient_penalty(network(augmented(x, 0.7)), x).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert float(network.first.weight.grad.abs().max()) > 0


def test_the_probability_rises_while_the_discriminator_overfits_and_falls_otherwise() -> None:
    assert adapted(0.2, 0.9, 0.6, 320, 3.2) == pytest.approx(0.3)
    assert adapted(0.2, 0.3, 0.6, 320, 3.2) == pytest.approx(0.1)
    assert adapted(0.95, 0.9, 0.6, 320, 3.2) == 1.0
    assert adapted(0.05, 0.3, 0.6, 320, 3.2) == 0.0


def test_path_lengths_of_a_linear_generator_are_its_scale() -> None:
    torch.manual_seed(0)
    styles = torch.randn(512, 2, 3, requires_grad=True)
    images = (5.0 * styles.sum(dim=(1, 2)))[:, None, None, None].expand(-1, 3, 4, 4)
    # 48 directions / 4 of unit variance, five times, over three numbers of each style.
    expected = 5 * np.sqrt(48) / 4 * np.sqrt(3)
    assert float(path_lengths(images, styles).square().mean().sqrt()) == pytest.approx(expected, rel=0.1)


# --- training and rendering ---------------------------------------------------------------------------------------


def test_a_training_that_is_stopped_ends_with_the_weights_of_one_that_is_not(
    trained: Path, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(images, tmp_path, stop_after=3)
    assert train(images, tmp_path).read_bytes() == trained.read_bytes()


def test_an_image_is_a_function_of_its_seed(trained: Path) -> None:
    made = StyleGan.load(trained)
    assert np.array_equal(image_of(made, 7), image_of(made, 7))
    assert not np.array_equal(image_of(made, 7), image_of(made, 8))


def test_the_renderer_annotates_what_it_made(trained: Path) -> None:
    render = SnowOptions(trained, model="classical").build(0.5)
    one, same = (render(np.random.default_rng(4), None, 32, None) for _ in range(2))
    assert one.image.shape == (32, 32, 3)
    assert one.instances.shape == (32, 32)
    assert np.array_equal(one.image, same.image)
    assert np.array_equal(one.instances, same.instances)


def test_annotations_lie_on_their_nuclei_at_another_scale() -> None:
    from wsiseg.models.registry import load_segmenter

    image, labels = discs(1, 128, 128, 8)
    found = annotate(load_segmenter("unet-0.5", device="cpu", precision="fp32"), image, 0.4)
    assert found.any()
    both = ((found > 0) & (labels > 0)).sum()
    assert 2 * both / ((found > 0).sum() + (labels > 0).sum()) > 0.8


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_renderer_conforms(check: Callable[[Case], None], trained: Path) -> None:
    check(Case(None, SnowOptions(trained, model="classical"), None, 32, 0.5))


def test_what_a_renderer_refuses(trained: Path) -> None:
    render = SnowOptions(trained, model="classical").build(0.5)
    with pytest.raises(UsageError, match="expected 32"):
        render(np.random.default_rng(0), None, 64, None)
    with pytest.raises(UsageError, match="without a \\[sampler\\]"):
        render(np.random.default_rng(0), Layout(np.zeros((32, 32), dtype=np.int32)), 32, None)
    with pytest.raises(ValueError, match="0 to 1"):
        SnowOptions(trained, truncation=2.0)
