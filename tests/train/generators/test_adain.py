"""AdaIN's training: the losses, an encoder that is trained or given, and a training that goes on exactly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from wsiseg.errors import ModelError, UsageError  # noqa: E402
from wsiseg.synth.renderers.adain.networks import StyleTransfer  # noqa: E402
from wsiseg.synth.renderers.adain.styles import content_of  # noqa: E402
from wsiseg.testing.training import Interrupted, discs, interrupted_after, write_folder  # noqa: E402
from wsiseg.train.generators.adain.contest import adain_contest, varied  # noqa: E402
from wsiseg.train.generators.adain.losses import transfer_losses  # noqa: E402
from wsiseg.train.generators.recipe import parse_generator_recipe  # noqa: E402
from wsiseg.train.generators.run import train_generator  # noqa: E402
from wsiseg.train.journal import read_log  # noqa: E402
from wsiseg.train.patches import PatchPool  # noqa: E402
from wsiseg.train.pools import Portion  # noqa: E402
from wsiseg.train.run import TrainOptions  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = TrainOptions(device="cpu", threads=1, workers=1, checkpoint_s=0.0)  # after each step
TABLES: dict[str, Any] = {
    "name": "tiny",
    "summary": "a tiny painter of discs",
    "licence": "CC0-1.0",
    "system": "adain",
    "steps": 5,
    "batch": 2,
    "every": 5,
    "seed": 3,
    "network": {"widths": [4, 4, 8, 8], "depths": [1, 1, 1, 1]},
    "method": {"rate": 1e-2, "encoder_steps": 2},
    "data": {
        "mpp": 0.5,
        "side": 32,
        "train": [{"kind": "folder", "data": "discs", "mpp": 0.5}],
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "discs", 2, height=96, width=96)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TABLES, folder, tmp_path_factory.mktemp("run"))


def train(tables: dict[str, Any], folder: Path, out: Path, stop_after: int = 0) -> Path:
    return train_generator(
        tables, "what it said", {"discs": folder}, out, OPTIONS, interrupted_after(stop_after)
    ).weights


def portions() -> list[Portion]:
    pairs = [discs(seed, 32, 32, 3) for seed in range(6)]
    images, labels = (np.stack(values) for values in zip(*pairs, strict=True))
    return [Portion.whole(PatchPool.of(images, labels.astype(np.int32)))]


def test_losses_are_0_for_what_has_content_and_style_and_count_each_level() -> None:
    features = [torch.randn(1, 3, 8, 8), torch.randn(1, 4, 4, 4)]
    assert all(float(loss) == 0 for loss in transfer_losses(features, features[-1], features).values())
    brighter = [features[0] + 2.0, features[1]]
    losses = transfer_losses(features, features[-1] + 3.0, brighter)
    assert float(losses["style"]) == pytest.approx(4.0, rel=1e-5)
    assert float(losses["content"]) == pytest.approx(9.0, rel=1e-5)


def test_steps_lower_the_losses_and_the_encoder_is_kept_after_its_own() -> None:
    recipe = parse_generator_recipe(TABLES | {"steps": 80, "method": {"rate": 1e-2, "encoder_steps": 40}})
    contest = adain_contest(recipe, portions(), "cpu")
    losses = [contest.step(number) for number in range(40)]
    assert losses[-1]["reproduction"] < 0.8 * losses[0]["reproduction"]
    kept = copy.deepcopy(contest.transfer.encoder.state_dict())
    totals = [sum(contest.step(number).values()) for number in range(40, 80)]
    assert np.mean(totals[-5:]) < np.mean(totals[:5])
    assert all(torch.equal(kept[key], value) for key, value in contest.transfer.encoder.state_dict().items())


def test_styles_vary_in_brightness_and_contrast_and_stay_images() -> None:
    images = torch.rand(64, 3, 8, 8) * 0.5 + 0.25
    seen = varied(np.random.default_rng(0), images, 0.1, 0.2)
    shift, factor = (seen - images).mean(dim=(1, 2, 3)), seen.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert 0.08 < float(shift.max()) < 0.11
    assert 1.15 < float(factor.max()) < 1.21
    assert torch.equal(varied(np.random.default_rng(0), images, 0, 0), images)
    assert float(varied(np.random.default_rng(0), images, 0.9, 0).max()) <= 1


def test_a_training_that_is_stopped_ends_with_the_weights_of_one_that_is_not(
    trained: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(TABLES, folder, tmp_path, stop_after=2)  # while the encoder learns
    with pytest.raises(Interrupted):
        train(TABLES, folder, tmp_path, stop_after=4)
    assert train(TABLES, folder, tmp_path).read_bytes() == trained.read_bytes()
    log = read_log(tmp_path)
    assert [set(row["loss"]) for row in log if "loss" in row] == [{"reproduction"}, {"content", "style"}]
    assert {"nuclei", "elsewhere"} <= set(log[-1]["likeness"])
    assert Image.open(tmp_path / "samples" / "step-0000005.png").width == 4 * 34
    assert (tmp_path / "curves.png").is_file()
    assert (tmp_path / "log.csv").is_file()


def test_the_weights_are_the_renderers_and_say_where_they_come_from(trained: Path) -> None:
    from safetensors import safe_open

    image, labels = discs(0, 40, 48)
    assert StyleTransfer.load(trained).transfer_alone(content_of(labels), image).shape == (40, 48, 3)
    with safe_open(trained, "pt") as file:
        assert "what it said" in file.metadata()["wsiseg"]


def test_an_encoder_that_is_given_is_kept_and_none_is_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsiseg.train.generators.adain import contest

    given = tmp_path / "vgg.safetensors"
    given.write_bytes(b"weights")
    small = parse_generator_recipe(TABLES | {"encoder": str(given)})
    with pytest.raises(UsageError, match="not VGG-19"):
        adain_contest(small, portions(), "cpu")
    with pytest.raises(ModelError, match=r"vgg\.safetensors"):
        adain_contest(parse_generator_recipe(TABLES | {"encoder": str(given), "network": {}}), portions(), "cpu")
    encoder = StyleTransfer.new(contest.AdaINConfig(), 0.5, 9).encoder
    monkeypatch.setattr(contest, "load_vgg", lambda path: encoder)
    made = adain_contest(
        parse_generator_recipe(TABLES | {"encoder": str(given), "network": {}, "batch": 1}), portions(), "cpu"
    )
    kept = copy.deepcopy(encoder.state_dict())
    assert set(made.step(0)) == {"content", "style"}
    assert made.transfer.encoder is encoder
    assert all(torch.equal(kept[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("data", "side"), 36, "multiple of 8"),
        (("method", "rat"), 1, "rate"),
        (("method", "contrast"), 1.5, "below 1"),
        (("network", "widths"), [4, 4], "4"),
    ],
)
def test_recipes_that_cannot_be(
    place: tuple[str, ...], value: object, words: str, folder: Path, tmp_path: Path
) -> None:
    tables = copy.deepcopy(TABLES)
    tables[place[0]][place[1]] = value
    with pytest.raises(UsageError, match=words):
        train(tables, folder, tmp_path)
