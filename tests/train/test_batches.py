"""Training: pools, views, targets, colours, losses at their ends, batches that workers do not change."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

torch = pytest.importorskip("torch")

from wsiseg.core.atomic import lock_beside  # noqa: E402
from wsiseg.core.raster import rasterize  # noqa: E402
from wsiseg.errors import EnvironmentFault  # noqa: E402
from wsiseg.models.decoders import HoverDecoder, OffsetDecoder, StarConvexDecoder, decode_offsets  # noqa: E402
from wsiseg.models.heads import head_by_name  # noqa: E402
from wsiseg.run.events import ignore  # noqa: E402
from wsiseg.train.batches import BatchMaker, batches  # noqa: E402
from wsiseg.train.colour import blur, recompress, vary_colours  # noqa: E402
from wsiseg.train.labelling import pseudo_labels  # noqa: E402
from wsiseg.train.losses import HEAD_LOSSES, SeedLoss, loss_terms  # noqa: E402
from wsiseg.train.patches import KNOWN, NAMES, OUTSIDE, UNKNOWN, PatchPool, is_complete, write_pool  # noqa: E402
from wsiseg.train.pools import Portion, divide, draw, gather, spread  # noqa: E402
from wsiseg.train.settings import Augment, Rounds  # noqa: E402
from wsiseg.train.source import Frame, Ingredient  # noqa: E402
from wsiseg.train.targets import HEAD_TARGETS, OffsetTargets, make_targets, sample_patch  # noqa: E402
from wsiseg.train.views import View, depth, draw_view, look, whole_view  # noqa: E402

STILL = Augment(False, 0, (1, 1), 0, 0, 0, blur=0, jpeg=0, noise=0)

pytestmark = pytest.mark.usefixtures("one_thread")


def disc_pool(count: int = 3, size: int = 48) -> PatchPool:
    """Dark discs on a light ground, one of them cut by the border."""
    y, x = np.mgrid[:size, :size]
    labels = np.zeros((count, size, size), dtype=np.int16)
    for n in range(count):
        for k, (cy, cx, r) in enumerate([(14 + n, 15, 6), (30, 32 - n, 8), (47, 10, 5)]):
            labels[n][np.hypot(y - cy, x - cx) < r] = k + 1
    images = np.where(labels[..., None] > 0, (90, 60, 130), (230, 190, 215)).astype(np.uint8)
    return PatchPool.of(images, labels)


def random_pool(size: int = 60) -> PatchPool:
    """Blobs of every shape."""
    rng = np.random.default_rng(5)
    field = ndimage.gaussian_filter(rng.standard_normal((size, size)), 3)
    labels = ndimage.label(field > 0.02)[0].astype(np.int32)
    return PatchPool.of(rng.integers(0, 256, (1, size, size, 3)).astype(np.uint8), labels[None])


# Pools


def test_pools_are_kept(tmp_path: Path) -> None:
    pool = PatchPool.join([disc_pool(2), disc_pool(1)])
    write_pool(tmp_path / "pool", lambda first: [pool.part(slice(first, None))])
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


def test_a_pool_that_another_training_writes_is_left_alone(tmp_path: Path) -> None:
    class Two:
        def parts(self, frame: Frame, first: int) -> Iterator[PatchPool]:
            yield disc_pool(2).part(slice(first, None))

    def made() -> list[Portion]:
        ingredients = [Ingredient("two", Two())]  # type: ignore[arg-type]
        return gather(ingredients, ["two-1"], Frame(0.5, 64), tmp_path, ignore)

    with lock_beside(tmp_path / "two-1"), pytest.raises(EnvironmentFault, match="another run is writing"):
        made()
    assert len(made()[0]) == 2
    with lock_beside(tmp_path / "two-1"):
        assert len(made()[0]) == 2  # complete: nobody writes


def test_a_pool_has_one_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in a pool of"):
        write_pool(tmp_path / "a", lambda _: [disc_pool(1, 48), disc_pool(1, 64)])
    with pytest.raises(ValueError, match="at least one"):
        write_pool(tmp_path / "b", lambda _: [])


def test_portions_are_drawn_by_their_proportion() -> None:
    rng = np.random.default_rng(1)
    few, many = disc_pool(2), disc_pool(50)
    drawn = [draw(rng, [Portion.whole(few, 3.0), Portion(many, np.array([7, 9]), 1.0)]) for _ in range(4000)]
    assert 2880 < sum(pool is few for pool, _ in drawn) < 3120
    assert {n for pool, n in drawn if pool is many} == {7, 9}
    assert {n for pool, n in drawn if pool is few} == {0, 1}


def test_a_division_is_a_partition() -> None:
    portions = [Portion.whole(disc_pool(40), 2.0), Portion(disc_pool(20), np.arange(5, 15))]
    parts = divide(portions, [0.45, 0.05], seed=3)
    assert [[len(p) for p in part] for part in parts] == [[18, 4], [2, 1], [20, 5]]
    for n, portion in enumerate(portions):
        found = np.concatenate([part[n].indices for part in parts])
        assert sorted(found) == sorted(portion.indices)
    assert {p.proportion for part in parts for p in part[:1]} == {2.0}
    again = divide(portions, [0.45, 0.05], seed=3)
    assert all(np.array_equal(a[0].indices, b[0].indices) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(divide(portions, [0.45, 0.05], seed=4)[0][0].indices, parts[0][0].indices)
    assert len(divide(portions, [1.0, 0.0], seed=3)[2]) == 0


def test_validation_patches_are_spread() -> None:
    portions = [Portion.whole(disc_pool(6)), Portion.whole(disc_pool(5))]
    assert len(spread(portions, 0)) == 11
    assert [n for _, n in spread(portions, 3)] == [0, 5, 4]


# Views and targets


def brute_depth(labels: np.ndarray) -> np.ndarray:
    border = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        for end in (0, differs.shape[axis]):
            border |= np.insert(differs, end, False, axis=axis)
    distance = np.where(labels > 0, ndimage.distance_transform_edt(~border) + 1.0, 0)
    largest = np.array([max(distance[labels == n].max(initial=0), 1) for n in range(labels.max() + 1)])
    return distance / largest[labels]


def test_depth_is_the_distance_to_the_border() -> None:
    labels = np.asarray(random_pool().labels[0])
    assert depth(labels, labels.max() + 1) == pytest.approx(brute_depth(labels), abs=1e-6)
    full = np.ones((5, 7), dtype=np.int32)
    assert (depth(full, 2) == 1).all()  # no border at all
    assert (depth(full * 0, 1) == 0).all()


def test_offsets_lead_to_the_centroid_and_cut_nuclei_do_not_count() -> None:
    pool = disc_pool()
    target = make_targets(OffsetTargets(), sample_patch(pool, 0, whole_view((48, 48), 48), 0.5), 0.5)
    for label in (1, 2):
        rows, columns = np.nonzero(pool.labels[0] == label)
        assert (rows + target["offset"][0][rows, columns]) == pytest.approx(rows.mean(), abs=1e-4)
        assert (columns + target["offset"][1][rows, columns]) == pytest.approx(columns.mean(), abs=1e-4)
        assert target["depth"][rows, columns].max() == 1.0
        assert (target["inside"][rows, columns] == 1).all()
    assert (target["inside"][pool.labels[0] == 3] == 0).all()
    assert ((target["depth"] > 0) == (pool.labels[0] > 0)).all()
    assert (target["foreground"] == (pool.labels[0] > 0)).all()


def test_every_symmetry_keeps_offsets_true() -> None:
    """Each offset still ends in its own disc's centre, in each of the eight symmetries."""
    pool = disc_pool()
    seen = set()
    for seed in range(60):
        view = draw_view(np.random.default_rng(seed), (48, 48), 48, dataclasses.replace(STILL, symmetries=True))
        sample = look(pool, 0, view, 8)
        assert view.exact
        seen.add(sample.image.tobytes())
        target = make_targets(OffsetTargets(), sample, 0.5)
        inside = target["inside"] > 0
        rows, columns = np.nonzero(inside)
        ends = np.stack([rows + target["offset"][0][inside], columns + target["offset"][1][inside]], axis=1)
        centres = np.unique(ends.round(3), axis=0)
        assert len(centres) == 2
        for y, x in centres:
            assert (sample.image[round(y), round(x)] == (90, 60, 130)).all()
    assert len(seen) == 8


def test_a_turned_view_is_the_turned_patch() -> None:
    """Rotation by 90° is the same by interpolation as by moving pixels."""
    pool = random_pool()
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    view = View(quarter, np.array([0.0, 60.0]), 60)
    turned = look(pool, 0, view, 0)
    assert np.array_equal(turned.image, np.rot90(pool.images[0]))
    assert np.array_equal(turned.labels, np.rot90(pool.labels[0]))
    nearly = look(pool, 0, View(quarter + 1e-9, np.array([0.0, 60.0]), 60), 0)
    assert np.array_equal(turned.image, nearly.image)
    assert np.array_equal(turned.labels, nearly.labels)
    assert turned.covered == pytest.approx(nearly.covered, abs=1e-4)


def test_rotation_and_scale_carry_centres_along() -> None:
    """The centroid of what is seen is the carried one, for nuclei that are seen whole."""
    pool = disc_pool(1, 96)
    augment = dataclasses.replace(STILL, symmetries=True, rotate=1.0, scale=(0.8, 1.25))
    areas = []
    for seed in range(20):
        sample = look(pool, 0, draw_view(np.random.default_rng(seed), (96, 96), 64, augment), 32)
        for name in np.unique(sample.labels)[1:]:
            rows, columns = np.nonzero(sample.labels == name)
            if min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < 63:
                assert (rows.mean(), columns.mean()) == pytest.approx(sample.centre[name], abs=0.3)
                assert rows.min() == pytest.approx(sample.low[name, 0], abs=1.3)
                assert columns.max() == pytest.approx(sample.high[name, 1], abs=1.3)
                areas.append(len(rows) / (pool.labels[0] == name).sum())
    assert len(areas) > 10
    assert min(areas) < 0.8
    assert max(areas) > 1.2


def test_beyond_a_patch_its_mirror_image_is_seen_and_nothing_known() -> None:
    pool = disc_pool(1, 24)
    sample = look(pool, 0, whole_view((24, 24), 40), 0)
    assert np.array_equal(sample.image, np.pad(pool.images[0], ((8, 8), (8, 8), (0, 0)), mode="symmetric"))
    outside = np.pad(np.zeros((24, 24), dtype=bool), 8, constant_values=True)
    assert ((sample.known == OUTSIDE) == outside).all()
    assert (sample.labels[outside] == 0).all()
    assert (sample.covered[outside] == 0).all()
    target = make_targets(OffsetTargets(), sample, 0.5)
    assert (target["known"] == ~outside).all()


def test_nuclei_cut_by_their_image_have_no_offsets() -> None:
    pool = disc_pool(1)
    known = pool.known.copy()
    known[:, :, 40:] = OUTSIDE  # touches the second disc
    sample = look(dataclasses.replace(pool, known=known), 0, whole_view((48, 48), 48), 0)
    assert sample.cut[1:].tolist() == [False, True, True]


def test_a_crop_knows_the_whole_nucleus() -> None:
    """A nucleus that the view cuts, but not the patch, has its true centre outside of the view."""
    pool = disc_pool(1)
    view = View(np.eye(2), np.array([14.0, 15.0]), 16)  # from the first disc's centre on
    target = make_targets(OffsetTargets(), look(pool, 0, view, 16), 0.5)
    assert target["inside"][0, 0] == 1
    assert target["offset"][:, 2, 3] == pytest.approx([-2, -3], abs=1e-6)


@pytest.mark.parametrize("head", ["offsets", "hover", "star"])
def test_perfect_maps_decode_to_the_labels(head: str) -> None:
    """What targets say is what the decoder understands."""
    pool = disc_pool(1, 64)
    target = make_targets(HEAD_TARGETS[head](), sample_patch(pool, 0, whole_view((64, 64), 64), 0.5), 0.5)
    foreground = target["foreground"]
    if head == "offsets":
        labels, _ = decode_offsets(foreground, target["offset"], OffsetDecoder(upsample=1))
    else:
        if head == "hover":
            nuclei = HoverDecoder(mpp=0.5).decode(foreground, target["distance"])
        else:
            nuclei = StarConvexDecoder().decode(target["depth"] * target["inside"], target["rays"])
        labels = rasterize(nuclei, np.arange(1, len(nuclei) + 1), (64, 64))
    for name in (1, 2):
        true = pool.labels[0] == name
        found = np.bincount(labels[true]).argmax()
        assert found > 0
        assert ((labels == found) & true).sum() / ((labels == found) | true).sum() > 0.85


def test_seeds_lie_in_the_middle() -> None:
    pool = disc_pool(1)
    kind = HEAD_TARGETS["seeds"](radius_um=1.0)
    target = make_targets(kind, sample_patch(pool, 0, whole_view((48, 48), 48), 0.5), 0.5)
    found, count = ndimage.label(target["seed"])
    assert count == 3
    assert (found > 0).sum() >= 2 * 13  # discs of radius 2
    for name in (1, 2):
        middle = ndimage.center_of_mass(target["seed"], pool.labels[0], name)
        assert middle == pytest.approx(ndimage.center_of_mass(pool.labels[0] == name), abs=0.01)
    assert (target["meant"][pool.labels[0] == 3] == 0).all()  # its centre lies beyond the patch


def test_distances_run_from_minus_one_to_one() -> None:
    pool = disc_pool(1)
    target = make_targets(HEAD_TARGETS["hover"](), sample_patch(pool, 0, whole_view((48, 48), 48), 0.5), 0.5)
    rows, columns = np.nonzero(pool.labels[0] == 2)
    across, down = target["distance"][:, rows, columns]
    assert across[columns == columns.min()] == pytest.approx(-1, abs=1e-5)
    assert across[columns == columns.max()] == pytest.approx(1, abs=1e-5)
    assert down[rows == rows.max()] == pytest.approx(1, abs=1e-5)
    assert abs(across.mean()) < 1e-5


def test_rays_of_a_disc_are_its_radius() -> None:
    pool = disc_pool(1)
    target = make_targets(HEAD_TARGETS["star"](), sample_patch(pool, 0, whole_view((48, 48), 48), 0.5), 0.5)
    assert target["rays"][:, 30, 32] == pytest.approx(7.75, abs=0.5)  # of pixels whose centres are within 8
    assert target["rays"][0, 30, 30] == pytest.approx(9.5, abs=0.3)  # along x
    assert target["rays"][8, 28, 32] == pytest.approx(9.5, abs=0.3)  # along y
    assert (target["inside"][pool.labels[0] == 3] == 0).all()


# Colours


def test_colours_are_a_function_of_the_draws_and_stay_when_still() -> None:
    image = disc_pool().images[0]
    strong = Augment(stain=0.3, blur=1.0, jpeg=1.0, noise=1.0)
    a, b = (vary_colours(np.random.default_rng(4), image, strong) for _ in range(2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, vary_colours(np.random.default_rng(5), image, strong))
    assert np.array_equal(vary_colours(np.random.default_rng(4), image, STILL), image)


def test_one_setting_leaves_the_others_draws_alone() -> None:
    image = random_pool().images[0]
    views = [np.random.default_rng(1), np.random.default_rng(1)]
    settings = (STILL, dataclasses.replace(STILL, stain=0.2, blur=1.0, jpeg=1.0, noise=1.0, rotate=1.0))
    after = []
    for rng, augment in zip(views, settings, strict=True):
        vary_colours(rng, image, augment)
        after.append(rng.random())
    assert after[0] == after[1]


def test_each_colour_variation_does_what_it_says() -> None:
    image = random_pool(64).images[0]
    for sigma in (1.5, 5.0):
        smooth = blur(image, sigma)
        assert smooth.mean() == pytest.approx(image.mean(), abs=1)
        assert smooth.std() < 0.4 * image.std()
        exact = [ndimage.gaussian_filter(image[..., c].astype(float), sigma, mode="reflect") for c in range(3)]
        assert smooth == pytest.approx(np.stack(exact, axis=2), abs=2)
    errors = [np.abs(recompress(image, q).astype(int) - image).mean() for q in (95, 40)]
    assert 0 < errors[0] < errors[1]
    rng, plain = np.random.default_rng(0), disc_pool().images[0]
    stained = vary_colours(rng, plain, dataclasses.replace(STILL, stain=0.5))
    ratio = np.log((stained[0, 0] + 1.0) / 256) / np.log((plain[0, 0] + 1.0) / 256)
    assert ratio.std() > 0.01  # not the same for all channels
    grey = np.full((64, 64, 3), 128, dtype=np.uint8)
    noisy = vary_colours(rng, grey, dataclasses.replace(STILL, noise=1.0, noise_level=9.0))
    assert 0 < noisy.std() < 10


# Losses


def perfect(head: str, target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Maps that say just what the targets do."""
    logit = (target["foreground"][:, None] - 0.5) * 60
    if head == "offsets":
        return {"foreground": logit, "offsets": target["offset"], "depth": target["depth"][:, None]}
    if head == "foreground":
        return {"foreground": logit}
    if head == "seeds":
        return {"segmentation": logit, "detection": (target["seed"][:, None] - 0.5) * 60}
    if head == "hover":
        return {"np": torch.cat([-logit / 2, logit / 2], 1), "hv": target["distance"]}
    return {"probability": torch.logit(target["depth"][:, None].clamp(1e-6, 1 - 1e-6)), "rays": target["rays"]}


def batch_of(head: str, pool: PatchPool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    size = pool.labels.shape[1]
    maker = BatchMaker([Portion.whole(pool)], HEAD_TARGETS[head](), STILL, 2, size, 0.5, 1)
    made = maker.make(0)
    return made.targets, made.weight


@pytest.mark.parametrize("head", sorted(HEAD_LOSSES))
def test_a_perfect_prediction_costs_least(head: str) -> None:
    target, weight = batch_of(head, disc_pool())
    loss = HEAD_LOSSES[head]()
    maps = perfect(head, target)
    assert set(maps) == set(head_by_name(head).outputs)
    best = loss_terms(loss, maps, target, weight)
    names = set(best) - {"total"}
    # Star's probability is a fraction, whose cross-entropy has a floor.
    assert all(float(best[name]) < 2e-3 for name in names - {"probability"})
    wrong = loss_terms(loss, {name: -value + 0.3 for name, value in maps.items()}, target, weight)
    assert all(float(wrong[name]) > float(best[name]) + 0.01 for name in names)
    total = sum(getattr(loss, name) * float(wrong[name]) for name in names)
    assert float(wrong["total"]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("head", sorted(HEAD_LOSSES))
def test_unknown_pixels_do_not_count(head: str) -> None:
    pool = disc_pool()
    pool = dataclasses.replace(pool, labels=pool.labels * 0, known=pool.known * 0)
    target, weight = batch_of(head, pool)
    outputs = {name: torch.full((2, c, 48, 48), 3.0) for name, c in head_by_name(head).outputs.items()}
    values = [float(loss_terms(HEAD_LOSSES[head](), m, target, weight)["total"]) for m in (
        outputs, {name: -value for name, value in outputs.items()}
    )]  # fmt: skip
    assert values[0] == pytest.approx(values[1])


@pytest.mark.parametrize("head", sorted(HEAD_LOSSES))
def test_weights_multiply_a_patchs_loss(head: str) -> None:
    target, weight = batch_of(head, disc_pool())
    outputs = {name: torch.full((2, c, 48, 48), 0.7) for name, c in head_by_name(head).outputs.items()}
    one, double = (float(loss_terms(HEAD_LOSSES[head](), outputs, target, weight * w)["total"]) for w in (1.0, 2.0))
    assert double == pytest.approx(2 * one, rel=1e-5)


def test_maps_without_a_margin_meet_the_middle_of_the_targets() -> None:
    target, weight = batch_of("foreground", disc_pool())
    maps = {name: value[:, :, 6:-6, 6:-6] for name, value in perfect("foreground", target).items()}
    assert float(loss_terms(HEAD_LOSSES["foreground"](), maps, target, weight)["total"]) < 1e-3


def test_the_border_of_hous_patches_counts_little() -> None:
    target, weight = batch_of("seeds", disc_pool())
    maps = perfect("seeds", target)
    losses = []
    for where in (slice(0, 8), slice(20, 28)):
        wrong = {name: value.clone() for name, value in maps.items()}
        wrong["segmentation"][:, :, where, 20:28] *= -1
        losses.append(float(loss_terms(SeedLoss(border_px=10), wrong, target, weight)["segmentation"]))
    assert 0 < losses[0] < 0.05 * losses[1]


# Batches


def maker_of(pools: list[PatchPool], side: int = 32, seed: int = 1) -> BatchMaker:
    augment = Augment(rotate=0.5, scale=(0.8, 1.25), jpeg=0.5)
    return BatchMaker([Portion.whole(pool) for pool in pools], OffsetTargets(), augment, 3, side, 0.5, seed)


def test_batches_are_the_same_for_any_workers_and_start() -> None:
    maker = maker_of([disc_pool(), disc_pool(2, 64)])
    one = list(batches(maker, 0, 6, 1))
    three = list(batches(maker, 2, 6, 3))
    assert len(one) == 6
    for a, b in zip(one[2:], three, strict=True):
        assert torch.equal(a.images, b.images)
        assert all(torch.equal(a.targets[name], b.targets[name]) for name in a.targets)
    assert not torch.equal(one[0].images, one[1].images)
    assert not torch.equal(one[0].images, maker_of(maker.portions[0].pool and [disc_pool()], seed=2).make(0).images)


def test_pools_of_different_sizes_are_mixed() -> None:
    maker = maker_of([disc_pool(2, 24), disc_pool(2, 96)], side=48)
    made = [maker.make(step) for step in range(6)]
    assert {tuple(b.images.shape) for b in made} == {(3, 3, 48, 48)}
    known = np.concatenate([b.targets["known"].mean((1, 2)).numpy() for b in made])
    assert (known < 0.5).any()
    assert (known > 0.9).any()


def test_a_pools_weights_reach_the_batch() -> None:
    pool = dataclasses.replace(disc_pool(2), weight=np.array([0.25, 0.25], dtype=np.float32))
    assert maker_of([pool]).make(0).weight.tolist() == [0.25] * 3


# Pseudo-labels


def test_pseudo_labels_teach_what_is_sure() -> None:
    head = head_by_name("offsets")
    labels = np.array([[1, 1, 0, 2, 2, 0]], dtype=np.int32)
    foreground = np.array([[0.9, 0.8, 0.05, 0.6, 0.6, 0.4]], dtype=np.float32)
    known = np.array([[UNKNOWN] * 6], dtype=np.uint8)
    scores = np.array([0.85, 0.6], dtype=np.float32)
    rounds = Rounds(steps=1, soft=False, sure=0.8, unknown=0.1)
    names, covered, meant = pseudo_labels((foreground,), labels, scores, known, head, rounds)
    assert names.tolist() == [[1, 1, 0, 0, 0, 0]]
    assert covered.tolist() == [[230, 204, 0, 0, 0, 0]]
    assert meant.tolist() == [[KNOWN, KNOWN, KNOWN, UNKNOWN, UNKNOWN, UNKNOWN]]


def test_soft_pseudo_labels_are_the_probabilities() -> None:
    head = head_by_name("foreground")
    labels = np.array([[1, 0, 2, 2]], dtype=np.int32)
    foreground = np.array([[0.9, 0.2, 0.6, 0.6]], dtype=np.float32)
    known = np.array([[UNKNOWN, UNKNOWN, UNKNOWN, OUTSIDE]], dtype=np.uint8)
    names, covered, meant = pseudo_labels(
        (foreground,), labels, np.ones(2, np.float32), known, head, Rounds(steps=1)
    )
    assert names.tolist() == [[1, 0, 2, 0]]
    assert covered.tolist() == [[230, 51, 153, 0]]
    assert meant.tolist() == [[KNOWN, KNOWN, KNOWN, OUTSIDE]]
