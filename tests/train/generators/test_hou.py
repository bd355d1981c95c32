"""The training of Hou et al.'s refiner: losses, history, steps, and a training that goes on exactly."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from wsiseg.errors import TrainingError, UsageError  # noqa: E402
from wsiseg.synth.hou.patch import HouPatch  # noqa: E402
from wsiseg.synth.renderers.networkfile import to_tensor  # noqa: E402
from wsiseg.synth.renderers.transfer.refiner import RefinerPair, real_probability  # noqa: E402
from wsiseg.testing.images import stained  # noqa: E402
from wsiseg.testing.networks import TINY_REFINER  # noqa: E402
from wsiseg.testing.training import Interrupted, interrupted_after  # noqa: E402
from wsiseg.train.generators.hou.contest import (  # noqa: E402
    Method,
    RefinerContest,
    hou_contest,
    tiles_of,
)
from wsiseg.train.generators.hou.history import HistoryBuffer  # noqa: E402
from wsiseg.train.generators.hou.losses import discriminator_loss, refiner_loss  # noqa: E402
from wsiseg.train.generators.recipe import parse_generator_recipe  # noqa: E402
from wsiseg.train.generators.run import train_generator  # noqa: E402
from wsiseg.train.journal import read_log  # noqa: E402
from wsiseg.train.patches import OUTSIDE, PatchPool  # noqa: E402
from wsiseg.train.pools import Portion  # noqa: E402
from wsiseg.train.run import TrainOptions  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = TrainOptions(device="cpu", threads=1, workers=1, checkpoint_s=0.0)  # after each step
QUICK: dict[str, Any] = {"side": 48, "history": 4, "refiner_rate": 1e-3, "discriminator_rate": 2e-3, "warm_up": 0}
TABLES: dict[str, Any] = {
    "name": "tiny",
    "summary": "a tiny refiner",
    "licence": "CC0-1.0",
    "system": "hou",
    "steps": 5,
    "batch": 2,
    "every": 5,
    "seed": 3,
    "network": dataclasses.asdict(TINY_REFINER),
    "method": QUICK | {"warm_up": 2},
    "data": {"mpp": 0.25, "side": 96, "train": [{"kind": "images", "data": "textures", "mpp": 0.25}]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textures, one of which has no nuclei."""
    made = tmp_path_factory.mktemp("textures")
    Image.fromarray(np.full((96, 96, 3), 240, dtype=np.uint8)).save(made / "a_white.png")
    for seed in range(3):
        Image.fromarray(stained(seed, 96)).save(made / f"tile{seed}.png")
    return made


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(TABLES, folder, tmp_path_factory.mktemp("run"))


def train(tables: dict[str, Any], folder: Path, out: Path, stop_after: int = 0) -> Path:
    return train_generator(
        tables, "what it said", {"textures": folder}, out, OPTIONS, interrupted_after(stop_after)
    ).weights


def portion(*images: np.ndarray) -> Portion:
    pixels = np.stack(images or [stained(seed, 96) for seed in range(3)])
    return Portion.whole(PatchPool.of(pixels, np.zeros(pixels.shape[:3], dtype=np.int16)))


def contest(**method: float) -> RefinerContest:
    return hou_contest(parse_generator_recipe(TABLES | {"method": QUICK | method}), [portion()], "cpu")


def pictures(seed: int, count: int = 2, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# --- losses


def test_losses_worked_out_by_hand() -> None:
    logits = torch.zeros(2, 2, 3, 3)
    logits[:, 1] = np.log(3.0)  # real with probability 3/4
    torch.testing.assert_close(real_probability(logits), torch.full((2,), 0.75))
    image = torch.zeros(2, 3, 4, 4)
    refined = image + 0.5
    real = 9 * -np.log(0.75)
    expected = real + 1e-3 * 48 * 0.5 + 1e-2 * 48 * 0.25
    assert float(refiner_loss(logits, refined, image)) == pytest.approx(expected, rel=1e-5)
    with_segmenter = refiner_loss(logits, refined, image, torch.tensor(1e6))
    assert float(with_segmenter) == pytest.approx(expected - 0.1, rel=1e-5)
    assert float(discriminator_loss(logits, logits)) == pytest.approx(real - 9 * np.log(0.25), rel=1e-5)


# --- history


def batch_of(values: list[int]) -> np.ndarray:
    return np.stack([np.full((2, 2, 3), value, dtype=np.uint8) for value in values])


def contents(history: HistoryBuffer) -> list[int]:
    return [int(image[0, 0, 0]) for image in history.state()["images"]]


def test_the_history_fills_in_order_and_then_replaces_half_a_batch_at_random() -> None:
    history, rng = HistoryBuffer(6), np.random.default_rng(0)
    history.push(rng, batch_of([1, 2, 3, 4]), batch_of([101, 102, 103, 104]))
    assert contents(history) == [1, 2, 3, 4]
    history.push(rng, batch_of([5, 6, 7, 8]), batch_of([105, 106, 107, 108]))  # no room for four
    assert len(history) == 4
    assert len(set(contents(history)) & {1, 2, 3, 4}) == 2
    assert len(set(contents(history)) & {5, 6, 7, 8}) == 2
    images, references = history.sample(rng, 4)
    assert sorted(images[:, 0, 0, 0].tolist()) == sorted(contents(history))
    np.testing.assert_array_equal(references, images + 100)  # pairs stay together
    with pytest.raises(ValueError, match="5 pairs"):
        history.sample(rng, 5)


def test_a_restored_history_goes_on_alike() -> None:
    one, other = HistoryBuffer(4), HistoryBuffer(4)
    one.push(np.random.default_rng(0), batch_of([1, 2, 3, 4]), batch_of([1, 2, 3, 4]))
    other.restore(one.state())
    for history in (one, other):
        history.push(np.random.default_rng(1), batch_of([5, 6]), batch_of([5, 6]))
    assert contents(one) == contents(other)


# --- steps


def test_a_discriminator_step_lowers_its_loss_and_the_refiner_moves() -> None:
    made = contest(refiner_rate=1e-2)
    assert made.scores()["change"] == 0.0  # untrained it changes nothing
    losses = [made.step(number) for number in range(16)]
    assert losses[-1]["discriminator"] < losses[0]["discriminator"]
    assert made.scores()["change"] > 0.01
    assert len(made.history) == 4


def test_a_refiner_step_makes_the_same_patches_look_more_real() -> None:
    pair = RefinerPair.new(TINY_REFINER, 0)
    reference = to_tensor(pictures(2))
    image = 0.3 * to_tensor(pictures(1)) - 0.3
    judge = torch.optim.Adam(pair.discriminator.parameters(), 1e-2)
    for _ in range(30):  # it learns that real patches are lighter
        real, synthetic = pair.discriminator(image + 0.3, reference), pair.discriminator(image, reference)
        judged = discriminator_loss(real, synthetic)
        judge.zero_grad()
        judged.backward()
        judge.step()
    optimiser = torch.optim.Adam(pair.refiner.parameters(), 3e-3)
    losses = []
    for _ in range(20):
        refined = pair.refiner(image, reference)
        loss = refiner_loss(pair.discriminator(refined, reference), refined, image)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert float((refined - image).detach().mean()) > 0.02  # lighter it became


def test_the_warm_up_trains_the_discriminator_alone() -> None:
    made = contest(warm_up=3)
    before = {name: copy.deepcopy(network.state_dict()) for name, network in made.networks.items()}

    def same(name: str) -> bool:
        return all(torch.equal(before[name][key], value) for key, value in made.networks[name].state_dict().items())

    for number in range(3):
        assert set(made.step(number)) == {"discriminator"}
    assert same("refiner")
    assert not same("discriminator")
    assert set(made.step(3)) == {"refiner", "discriminator"}
    assert not torch.equal(torch.zeros(3), made.pair.refiner.head.bias)


def test_a_segmenters_loss_is_told_the_patches_and_counts() -> None:
    seen: list[HouPatch] = []

    def segmenter_loss(refined: torch.Tensor, patches: Any) -> torch.Tensor:
        seen.extend(patches)
        return refined.sum() * 1e7

    plain = contest()
    recipe = parse_generator_recipe(TABLES | {"method": QUICK})
    other = RefinerContest(recipe, TINY_REFINER, Method(**QUICK), tiles_of(portion()), "cpu", segmenter_loss)
    assert plain.step(0)["refiner"] != other.step(0)["refiner"]
    assert [patch.labels.shape for patch in seen] == [(48, 48)] * 2


def test_scores_and_the_sheet_are_of_patches_that_no_step_has() -> None:
    made = contest()
    first = made.scores()
    names = {"frechet_unet-0.5", "rendered_unet-0.5", "p_real", "p_refined", "weight", "change"}
    assert set(first) == names
    assert first["frechet_unet-0.5"] == first["rendered_unet-0.5"]
    assert first == made.scores()
    assert all(0.2 < first[name] < 2.0 for name in ("p_real", "p_refined", "weight"))
    sheet = made.sheet()
    assert sheet.shape == (6 * 50, 4 * 50, 3)
    cells = sheet.reshape(6, 50, 4, 50, 3)[:, :48, :, :48]
    np.testing.assert_array_equal(cells[:, :, 1], cells[:, :, 2])
    assert (cells[:, :, 3] == 128).all()
    torch.nn.init.constant_(made.pair.refiner.head.bias, -0.1)
    changed = made.sheet().reshape(6, 50, 4, 50, 3)[:, :48, :, :48]
    np.testing.assert_array_equal(changed[:, :, :2], cells[:, :, :2])
    assert (changed[:, :, 2].astype(int) <= cells[:, :, 2]).all()
    assert np.median(changed[:, :, 3]) == 128 - 8 * 13


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    made = contest()
    torch.nn.init.constant_(made.pair.refiner.head.bias, float("nan"))
    with pytest.raises(TrainingError, match="refiner's loss is nan"):
        made.step(0)


# --- trainings


def test_a_training_that_is_stopped_ends_with_the_weights_of_one_that_is_not(
    trained: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(TABLES, folder, tmp_path, stop_after=1)  # while the discriminator learns alone
    with pytest.raises(Interrupted):
        train(TABLES, folder, tmp_path, stop_after=4)
    assert train(TABLES, folder, tmp_path).read_bytes() == trained.read_bytes()
    log = read_log(tmp_path)
    assert [set(row["loss"]) for row in log if "loss" in row] == [{"discriminator"}, {"refiner", "discriminator"}]
    assert {"p_refined", "weight", "change"} <= set(log[-1]["likeness"])
    assert Image.open(tmp_path / "samples" / "step-0000005.png").size == (4 * 50, 6 * 50)
    assert (tmp_path / "curves.png").is_file()
    assert (tmp_path / "log.csv").is_file()


def test_threads_do_not_change_the_patches(folder: Path) -> None:
    one = contest()._patches(7, 6)
    torch.set_num_threads(2)  # one_thread puts it back
    for patch, other in zip(one, contest()._patches(7, 6), strict=True):
        np.testing.assert_array_equal(patch.image, other.image)


def test_the_weights_are_the_renderers_and_say_where_they_come_from(trained: Path) -> None:
    from safetensors import safe_open

    pair = RefinerPair.load(trained)
    assert pair.config == TINY_REFINER
    assert pair.refine_alone(pictures(0, 1)[0], pictures(1, 1)[0])[0].shape == (32, 32, 3)
    with safe_open(trained, "pt") as file:
        note = file.metadata()["wsiseg"]
    for words in ("what it said", "4 unlabelled images", "CC0-1.0", '"step": 5'):
        assert words in note


def test_textures_that_nothing_can_be_rendered_on() -> None:
    white = np.full((96, 96, 3), 240, dtype=np.uint8)
    assert len(tiles_of(portion(white, stained(0, 96)))) == 1
    with pytest.raises(UsageError, match="none of the 1 textures"):
        tiles_of(portion(white))
    padded = portion()
    padded.pool.known[1, 80:] = OUTSIDE
    with pytest.raises(UsageError, match="some textures are smaller"):
        tiles_of(padded)
    recipe = parse_generator_recipe(TABLES)
    with pytest.raises(UsageError, match="2 sources"):
        hou_contest(recipe, [portion(), portion()], "cpu")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("data", "mpp"), 0.5, r"data\.mpp"),
        (("method", "sid"), 1, "side"),
        (("method", "side"), 16, "32 px"),
        (("method", "refiner_rate"), 0, "more than 0"),
        (("method", "history"), 1, "at least batch, 2"),
        (("network", "code"), 1, "2 or more"),
    ],
)
def test_recipes_that_cannot_be(
    place: tuple[str, ...], value: object, words: str, folder: Path, tmp_path: Path
) -> None:
    tables = copy.deepcopy(TABLES)
    tables[place[0]][place[1]] = value
    with pytest.raises(UsageError, match=words):
        train(tables, folder, tmp_path)
