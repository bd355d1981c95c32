"""Training on a device: colours by torch against the compiled ones, batches of processes, the same weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wsiseg.errors import EnvironmentFault  # noqa: E402
from wsiseg.testing.training import TABLES, write_folder  # noqa: E402
from wsiseg.train import loader, loop  # noqa: E402
from wsiseg.train.batches import Batch, BatchMaker, batches  # noqa: E402
from wsiseg.train.checkpoint import load_average  # noqa: E402
from wsiseg.train.colour import Restaining, Variation, draw_variation, varied  # noqa: E402
from wsiseg.train.colour_torch import Colours, before_device, recolour  # noqa: E402
from wsiseg.train.device import compiler_faults, deterministic  # noqa: E402
from wsiseg.train.journal import read_log  # noqa: E402
from wsiseg.train.loader import loaded_batches  # noqa: E402
from wsiseg.train.patches import NAMES, PatchPool, write_pool  # noqa: E402
from wsiseg.train.pools import Portion  # noqa: E402
from wsiseg.train.run import TrainOptions, train_recipe  # noqa: E402
from wsiseg.train.settings import Augment  # noqa: E402
from wsiseg.train.stains import stain_styles  # noqa: E402
from wsiseg.train.targets import OffsetTargets  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

STRONG = Augment(
    rotate=0.5, scale=(0.8, 1.25), stain=0.3, shift=0.1, exposure=0.1, blur=0.5, blur_px=(0.3, 3), noise=0
)
NOTHING = Variation(None, 0.0, 0, 0.0, 7)
KEPT = Restaining(
    np.eye(3, dtype=np.float32) * np.float32(0.8), np.full(3, 0.05, np.float32), np.ones(3, np.float32)
)


def pool(count: int = 4, size: int = 56) -> PatchPool:
    rng = np.random.default_rng(3)
    labels = np.zeros((count, size, size), dtype=np.int16)
    labels[:, 8:20, 30:44], labels[:, 30:50, 10:22] = 1, 2
    images = np.where(labels[..., None] > 0, (90, 60, 130), (230, 190, 215)) + rng.normal(0, 9, (*labels.shape, 3))
    return PatchPool.of(images.clip(0, 255).astype(np.uint8), labels)


def maker(patches: PatchPool, augment: Augment, defer: bool) -> BatchMaker:
    styles = stain_styles(list(patches.images))
    return BatchMaker([Portion.whole(patches)], OffsetTargets(), augment, 3, 32, 0.5, 1, styles, defer)


def by_torch(images: np.ndarray, variations: list[Variation]) -> np.ndarray:
    """uint8 (N, h, w, 3), as the compiled functions have it."""
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
    found: np.ndarray = recolour(tensors, Colours.of(variations)).permute(0, 2, 3, 1).numpy()
    return found


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and all(
        torch.equal(one.targets[name], other.targets[name]) for name in one.targets
    )


# Colours


def test_colours_by_torch_are_the_compiled_ones() -> None:
    """To one grey level, where rounding decides; each patch by its own draws, also a blur wider than the patch."""
    images = np.random.default_rng(0).integers(0, 256, (9, 40, 28, 3), dtype=np.uint8)
    rngs = [np.random.default_rng(n) for n in range(8)]
    drawn = [replace(draw_variation(rng, STRONG), transport=KEPT if n % 3 else None) for n, rng in enumerate(rngs)]
    drawn.append(replace(NOTHING, blur_px=5.0))
    assert {v.blur_px > 0 for v in drawn} == {True, False}
    found = by_torch(images, drawn).astype(int)
    expected = np.stack([varied(image, v) for image, v in zip(images, drawn, strict=True)]).astype(int)
    difference = np.abs(found - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_what_was_not_drawn_leaves_the_pixels_alone() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3).repeat(2, axis=0)
    assert np.array_equal(by_torch(images, [NOTHING, NOTHING]), images)
    blurred = by_torch(images, [NOTHING, replace(NOTHING, blur_px=1.0)])
    assert np.array_equal(blurred[0], images[0])
    assert not np.array_equal(blurred[1], images[1])


def test_noise_is_as_strong_as_drawn_and_a_function_of_the_seed() -> None:
    grey = np.full((2, 64, 64, 3), 128, dtype=np.uint8)
    noisy = by_torch(grey, [NOTHING, replace(NOTHING, noise=5.0)])
    assert (noisy[0] == 128).all()
    assert noisy[1].std() == pytest.approx(5.0, abs=0.2)
    assert noisy[1].mean() == pytest.approx(128, abs=0.2)
    assert np.array_equal(noisy, by_torch(grey, [NOTHING, replace(NOTHING, noise=5.0)]))
    other = [replace(NOTHING, noise_seed=8), replace(NOTHING, noise=5.0)]
    assert not np.array_equal(noisy, by_torch(grey, other))


def test_jpeg_and_what_comes_before_it_are_the_processors() -> None:
    image = pool().images[0]
    drawn = Variation(KEPT, 1.5, 60, 3.0, 11)
    begun, left = before_device(image, drawn)
    assert np.array_equal(begun, varied(image, replace(drawn, noise=0.0)))
    assert left == replace(NOTHING, noise=3.0, noise_seed=11)
    assert before_device(image, replace(drawn, jpeg_quality=0))[0] is image


@pytest.mark.parametrize("jpeg", [0.0, 0.5])
def test_a_batch_whose_colours_are_deferred_is_the_batch(jpeg: float) -> None:
    augment = replace(STRONG, jpeg=jpeg, transport=0.7)
    for step in range(4):
        now, later = (maker(pool(), augment, defer).make(step) for defer in (False, True))
        there = later.to("cpu")
        assert there.colours is None
        difference = (there.images.int() - now.images.int()).abs()
        assert difference.max() <= 2
        assert (difference > 0).float().mean() < 0.02
        assert jpeg > 0 or not torch.equal(later.images, now.images)
        assert all(torch.equal(there.targets[name], now.targets[name]) for name in now.targets)
        assert torch.equal(there.weight, now.weight)


# Processes


def test_a_mapped_pool_travels_as_its_folder(tmp_path: Path) -> None:
    patches = pool(40)
    mapped = write_pool(tmp_path / "pool", lambda first: [patches.part(slice(first, None))])
    assert len(pickle.dumps(mapped)) < 1000
    for one in (mapped, mapped.part(slice(3, 9)), replace(mapped, weight=mapped.weight * 2), patches):
        again = pickle.loads(pickle.dumps(one))
        assert all(np.array_equal(getattr(one, name), getattr(again, name)) for name in NAMES)


def test_batches_of_processes_are_those_of_threads(tmp_path: Path) -> None:
    patches = pool()
    mapped = write_pool(tmp_path / "pool", lambda first: [patches.part(slice(first, None))])
    made = maker(mapped, replace(STRONG, jpeg=0.3, noise=0.5, transport=0.5), defer=True)
    expected = [batch.to("cpu") for batch in batches(made, 0, 7, 1)]
    found = loaded_batches(made, 2, 7, 1)
    assert all(same(next(found).to("cpu"), one) for one in expected[2:5])
    found.close()  # with batches still to come


def test_a_process_that_was_killed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __iter__(self) -> Any:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \nmore")

    monkeypatch.setattr(loader, "DataLoader", Killed)
    with pytest.raises(EnvironmentFault, match=r"pid 7\) is killed by signal: Killed\.(?s:.*)fewer --workers"):
        next(loaded_batches(maker(pool(), STRONG, defer=True), 0, 3, 1))


# The whole


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("discs") / "discs", 3, height=80, width=80)


def weights(folder: Path) -> dict[str, Any]:
    return load_average(folder / "checkpoint.pt")[0]


def test_the_same_seed_gives_the_same_weights(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the device's colours, by threads in place of the processes: again, and stopped in between."""
    monkeypatch.setattr(loop, "loaded_batches", batches)
    tables = {**TABLES, "optimise": {"steps": 6, "crop": 32, "batch": 2, "precision": "fp32"}}

    def trained(name: str, workers: int = 1) -> dict[str, Any]:
        options = TrainOptions(device="cpu", workers=workers, checkpoint_s=0.0, offload=True)
        train_recipe(tables, "", {"discs": discs}, tmp_path / name, options)
        return weights(tmp_path / name)

    first = trained("first")
    assert all(torch.equal(value, first[name]) for name, value in trained("again", workers=3).items())
    step: Callable[..., Any] = loop.take_step

    def stops(*arguments: Any) -> Any:
        if arguments[-1] == 4:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", stops)
        with pytest.raises(KeyboardInterrupt):
            trained("stopped")
    assert all(torch.equal(value, first[name]) for name, value in trained("stopped").items())


@pytest.mark.parametrize("compiled", [False, True])
def test_the_journal_says_what_computed(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: asked.append(type(network).__name__))
    tables = {**TABLES, "optimise": {"steps": 2, "crop": 32, "batch": 2, "precision": "fp32"}}
    train_recipe(tables, "", {"discs": discs}, tmp_path, TrainOptions(device="cpu", compile=compiled))
    assert asked == ["UNet"] * compiled
    rows = [row for row in read_log(tmp_path) if "loss" in row]
    assert {row["on"] for row in rows} == {"cpu fp32, compiled" if compiled else "cpu fp32"}


def test_a_device_is_made_to_compute_the_same_every_time() -> None:
    """On whatever machine: these are settings of torch, put back afterwards."""

    def settings() -> tuple[bool, ...]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.utils.deterministic.fill_uninitialized_memory,
        )

    before = settings()
    with deterministic("cpu"):
        assert settings() == before
    with deterministic("cuda:0"):
        assert settings() == (True, False, False)
    assert settings() == before


def test_a_network_that_cannot_be_compiled_is_said() -> None:
    from torch._inductor.exc import CppCompileError

    with pytest.raises(EnvironmentFault, match=r"C\+\+ compile error(?s:.*)without --compile"), compiler_faults():
        raise CppCompileError(["g++"], "no such option")
    with pytest.raises(ZeroDivisionError), compiler_faults():
        raise ZeroDivisionError
