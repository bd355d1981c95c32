"""Training: targets after symmetries, losses at their ends, a loop that resumes where it was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wsiseg.errors import EnvironmentFault  # noqa: E402
from wsiseg.models.registry import load_segmenter  # noqa: E402
from wsiseg.models.unet import UNetConfig  # noqa: E402
from wsiseg.synth.textures import Texture, dissect  # noqa: E402
from wsiseg.train import loop  # noqa: E402
from wsiseg.train.annotated import annotated_pool, factor_for_diameter  # noqa: E402
from wsiseg.train.augment import colour_jitter, crop, learning_rate, targets  # noqa: E402
from wsiseg.train.losses import LossWeights, offset_loss  # noqa: E402
from wsiseg.train.patches import KNOWN, NAMES, OUTSIDE, PatchPool, is_complete, write_pool  # noqa: E402
from wsiseg.train.pseudo import pseudo_pool  # noqa: E402

TINY = UNetConfig(widths=(4, 8))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks on many threads wait more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def disc_pool(count: int = 3, size: int = 48) -> PatchPool:
    """Dark discs on a light ground, one of them cut by the border."""
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((count, size, size), dtype=np.int16)
    for n in range(count):
        for k, (cy, cx, r) in enumerate([(14 + n, 15, 6), (30, 32 - n, 8), (47, 10, 5)]):
            labels[n][np.hypot(y - cy, x - cx) < r] = k + 1
    images = np.where(labels[..., None] > 0, (90, 60, 130), (230, 190, 215)).astype(np.uint8)
    return PatchPool.of(images, labels)


def test_offsets_lead_to_the_centroid_and_cut_nuclei_do_not_count() -> None:
    pool = disc_pool()
    target = targets(pool.labels[0], pool.covered[0], pool.known[0])
    for label in (1, 2):
        rows, columns = np.nonzero(pool.labels[0] == label)
        assert (rows + target[1][rows, columns]) == pytest.approx(rows.mean())
        assert (columns + target[2][rows, columns]) == pytest.approx(columns.mean())
        assert target[3][rows, columns].max() == 1.0
        assert (target[5][rows, columns] == 1).all()
    assert (target[5][pool.labels[0] == 3] == 0).all()
    assert (target[3] > 0).sum() == (pool.labels[0] > 0).sum()


def test_every_symmetry_keeps_offsets_true() -> None:
    """Offsets are computed after the turn: each still ends inside its own disc's centre."""
    pool = disc_pool()
    seen = set()
    for seed in range(60):
        image, target = crop(pool, 0, 48, np.random.default_rng(seed))
        seen.add(image.tobytes())
        inside = target[5] > 0
        rows, columns = np.nonzero(inside)
        ends = np.stack([rows + target[1][inside], columns + target[2][inside]], axis=1)
        centres = np.unique(ends.round(3), axis=0)
        assert len(centres) == 2
        for y, x in centres:
            assert (image[round(y), round(x)] == (90, 60, 130)).all()
    assert len(seen) == 8


def test_a_perfect_prediction_costs_nothing() -> None:
    pool = disc_pool()
    target = torch.from_numpy(targets(pool.labels[0], pool.covered[0], pool.known[0]))[None]
    output = torch.stack([(target[:, 0] - 0.5) * 60, target[:, 1] / 8, target[:, 2] / 8, target[:, 3]], dim=1)
    terms = offset_loss(output, target, 8.0, LossWeights())
    assert float(terms["total"]) < 1e-3
    wrong = offset_loss(-output, target, 8.0, LossWeights())
    assert all(float(wrong[name]) > 0.1 for name in ("cross_entropy", "dice", "offset", "depth"))


def test_unknown_pixels_do_not_count() -> None:
    pool = disc_pool()
    known = np.zeros_like(pool.known[0])
    target = torch.from_numpy(targets(pool.labels[0] * 0, pool.covered[0], known))[None]
    one, other = torch.full((1, 4, 48, 48), 3.0), torch.full((1, 4, 48, 48), -3.0)
    values = [float(offset_loss(x, target, 8.0, LossWeights())["total"]) for x in (one, other)]
    assert values[0] == pytest.approx(values[1])


def test_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate(step, 500, 1.0, warmup=50) for step in range(500)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 1e-3
    assert (np.diff(rates[50:]) <= 0).all()


def test_colour_jitter_is_reproducible_and_stays_in_range() -> None:
    images = torch.from_numpy(disc_pool().images.transpose(0, 3, 1, 2).astype(np.float32))
    a, b = (colour_jitter(images, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a, b)
    assert float(a.min()) >= 0
    assert float(a.max()) <= 255
    still = colour_jitter(images, torch.Generator().manual_seed(1), strength=0.0)
    assert float((still - images).abs().median()) < 3


def test_training_learns_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped and started again gives the weights of one that was not."""
    pool = disc_pool()
    options = loop.TrainOptions(steps=8, batch=2, side=32, checkpoint_s=0.0, threads=1)
    whole = loop.train(pool, pool, tmp_path / "whole", TINY, options)

    log, written = loop._log, []

    def stop_after_three(out: Path, row: dict[str, object]) -> None:
        log(out, row)
        written.append(row)
        if len(written) == 4:  # the first step's losses, then one validation a step
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_log", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        loop.train(pool, pool, tmp_path / "stopped", TINY, options)
    monkeypatch.setattr(loop, "_log", log)
    resumed = loop.train(pool, pool, tmp_path / "stopped", TINY, options)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value.float(), resumed.state_dict()[name].float(), atol=1e-4), name

    longer = loop.TrainOptions(steps=60, batch=2, side=32, rate=1e-2, average=0.9, threads=1)
    before = loop.validate(whole, pool, options)["total"]
    after = loop.validate(loop.train(pool, pool, tmp_path / "long", TINY, longer), pool, options)["total"]
    assert after < 0.7 * before


def test_pools_are_kept(tmp_path: Path) -> None:
    pool = PatchPool.join([disc_pool(2), disc_pool(1)])
    pool.save(tmp_path / "pool")
    read = PatchPool.load(tmp_path / "pool")
    assert len(read) == 3
    assert isinstance(read.images, np.memmap)
    assert all(np.array_equal(getattr(pool, n), getattr(read, n)) for n in NAMES)
    with pytest.raises(EnvironmentFault, match="no finished pool"):
        PatchPool.load(tmp_path / "other")


@pytest.mark.parametrize("torn", [*NAMES, None])
def test_a_pool_goes_on_where_it_was_stopped(tmp_path: Path, torn: str | None) -> None:
    """Killed after two patches, in the middle of writing the third's ``torn``."""
    pool, asked = disc_pool(5), []

    def parts(first: int) -> Iterator[PatchPool]:
        asked.append(first)
        for n in range(first, 5):
            yield pool.part(slice(n, n + 1))

    def killed(first: int) -> Iterator[PatchPool]:
        yield from list(parts(first))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pool(tmp_path, killed)
    assert not is_complete(tmp_path)
    if torn is not None:
        with (tmp_path / f"{torn}.npy").open("ab") as stream:
            stream.write(b"123")
    read = write_pool(tmp_path, parts)
    assert asked == [0, 2]
    assert all(np.array_equal(getattr(pool, n), getattr(read, n)) for n in NAMES)
    write_pool(tmp_path, killed)  # asks for nothing


def test_a_pool_has_one_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in a pool of"):
        write_pool(tmp_path / "a", lambda _: [disc_pool(1, 48), disc_pool(1, 64)])
    with pytest.raises(ValueError, match="at least one"):
        write_pool(tmp_path / "b", lambda _: [])


def test_pseudo_labels_are_the_sure_nuclei() -> None:
    segmenter = load_segmenter("unet-0.5", device="cpu", precision="fp32")
    pool = disc_pool(1, 64)
    (image,) = pool.images
    labelled = pseudo_pool(segmenter, [image], sure=0.0)
    none = pseudo_pool(segmenter, [image], sure=1.1)
    assert labelled.labels.max() >= 2
    overlap = ((labelled.labels > 0) & (pool.labels > 0)).sum() / (pool.labels > 0).sum()
    assert overlap > 0.6
    assert none.labels.max() == 0
    assert none.known.mean() < labelled.known.mean()  # rejected nuclei are unknown, not background


def test_annotated_images_come_to_one_scale(textures_of_two: list[Texture]) -> None:
    pool = disc_pool(2)
    pairs = list(zip(pool.images, pool.labels, strict=True))
    factors = [factor_for_diameter(labels, 20.0) for _, labels in pairs]
    made = annotated_pool(pairs, factors, side=64, copies=3, seed=1, textures=textures_of_two)
    assert made.images.shape == (6, 64, 64, 3)
    for labels, known, image in zip(made.labels, made.known, made.images, strict=True):
        assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
        assert set(np.unique(known)) <= {KNOWN, OUTSIDE}
        assert (labels[known == OUTSIDE] == 0).all()
        inside = known == KNOWN
        red = image[..., 0].astype(float)
        assert red[inside & (labels > 0)].mean() < red[inside & (labels == 0)].mean()
    sizes = np.concatenate([np.bincount(labels.ravel())[1:] for labels in made.labels])
    assert 12 < np.sqrt(4 * np.median(sizes) / np.pi) < 28


def test_nuclei_cut_by_their_image_have_no_offsets() -> None:
    pool = disc_pool(1)
    known = pool.known[0].copy()
    known[:, 40:] = OUTSIDE  # touches the second disc
    target = targets(pool.labels[0], pool.covered[0], known)
    assert (target[5][pool.labels[0] == 2] == 0).all()
    assert (target[5][pool.labels[0] == 1] == 1).all()
    assert (target[4][:, 40:] == 0).all()


def test_a_factor_needs_nuclei() -> None:
    assert factor_for_diameter(np.zeros((4, 4), dtype=np.int32), 16.0) == 1.0


@pytest.fixture
def textures_of_two() -> list[Texture]:
    return [dissect(np.asarray(image)) for image in disc_pool(2, 96).images]
