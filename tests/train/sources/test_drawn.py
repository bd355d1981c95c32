"""Drawn patches: rendered when they are needed, of a dataset, in SNOW's layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.select import Select
from wsiseg.errors import UsageError
from wsiseg.synth.render import REVISION
from wsiseg.synth.scenes import Scenes
from wsiseg.testing.training import FRAME, discs, same, whole, write_snow
from wsiseg.train.source import Frame
from wsiseg.train.sources.rendered import RenderedSource, nuclear_pixels, richest_piece
from wsiseg.train.sources.snow import SnowSource
from wsiseg.train.sources.synthetic import SyntheticSource

pytestmark = pytest.mark.usefixtures("one_thread")


def test_rendered_patches_come_in_pieces_of_one_sequence(annotated: Path) -> None:
    source = RenderedSource(annotated / "images", count=6, size=64)
    pool = whole(source)
    assert pool.images.shape == (6, 32, 32, 3)
    later = RenderedSource(annotated / "images", count=3, start=3, size=64)
    assert same(pool.part(slice(3, None)), whole(later))
    assert not np.array_equal(pool.images, whole(dataclasses.replace(source, seed=2)).images)
    assert whole(source, Frame(0.25, 64)).images.shape == (6, 64, 64, 3)


def test_rendered_patches_do_not_depend_on_workers(annotated: Path) -> None:
    source = RenderedSource(annotated / "images", count=40, size=64)
    assert same(whole(source), whole(source, Frame(0.5, 32, workers=2)))


def test_rendered_parts_share_no_texture(annotated: Path) -> None:
    train, held = (
        RenderedSource(annotated / "images", select=Select(part=part, every=3))  # type: ignore[arg-type]
        for part in ("training", "validation")
    )
    assert train.statements()[0].count("3 textures") == 1
    assert held.statements()[0].count("2 textures") == 1
    assert train.describe(FRAME)["content"] != held.describe(FRAME)["content"]
    with pytest.raises(UsageError, match="of 5 none is in the part"):
        whole(dataclasses.replace(held, select=Select(part="validation", every=40)))


def test_the_renderers_revision_counts_its_changes(annotated: Path) -> None:
    """Pools are kept by it. What makes this fail must count ``synth.render.REVISION`` up."""
    pool = whole(RenderedSource(annotated / "images", count=3, size=96), Frame(0.25, 96))
    assert REVISION == 2
    assert pool.images.mean(axis=(1, 2, 3)).tolist() == pytest.approx([164.1, 132.0, 121.8], abs=0.2)
    assert pool.labels.max(axis=(1, 2)).tolist() == [10, 3, 10]


def test_scenes_are_part_of_the_sequence_whatever_the_workers(annotated: Path) -> None:
    plain = RenderedSource(annotated / "images", count=34, size=64)
    source = dataclasses.replace(plain, scenes=Scenes(fibres=0.5, red_cells=0.5, defocus=0.5))
    pool = whole(source)
    assert same(pool, whole(source, Frame(0.5, 32, workers=2)))
    assert source.describe(FRAME) != plain.describe(FRAME)
    changed = (pool.images != whole(plain).images).any(axis=(1, 2, 3))
    assert 0.6 < changed.mean() < 1.0  # 1 - 0.5³


def test_textures_of_folders_in_the_folder(tmp_path: Path) -> None:
    for n, folder in enumerate(("b", "a/deep", ".hidden")):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("0", "overview"):
            Image.fromarray(discs(n, 96, 96)[0]).save(tmp_path / folder / f"{name}.png")
    source = RenderedSource(tmp_path, count=2, size=64)
    assert source.statements()[0].count("4 textures") == 1
    numbered = dataclasses.replace(source, select=Select(match="*[0-9]"))
    assert numbered.statements()[0].count("2 textures") == 1
    with pytest.raises(UsageError, match=r"no name matches 'c/\*'; there are a/deep/0"):
        whole(dataclasses.replace(source, select=Select(match="c/*")))
    coarse, piece = dataclasses.replace(numbered, mpp=0.5), dataclasses.replace(numbered, piece=64)
    pools = [whole(s).images for s in (numbered, coarse, piece)]
    assert not any(np.array_equal(pools[0], other) for other in pools[1:])
    (tmp_path / "none" / "deep").mkdir(parents=True)
    with pytest.raises(UsageError, match="no files of images in it or its folders"):
        whole(dataclasses.replace(source, data=tmp_path / "none"))


def test_the_richest_piece_is_tissue_and_not_glass() -> None:
    image = np.full((200, 300, 3), 245, dtype=np.uint8)
    image[90:200, 190:300] = (220, 150, 190)
    piece = richest_piece(image, 100)
    np.testing.assert_array_equal(piece, image[100:200, 200:300])
    np.testing.assert_array_equal(richest_piece(image, 400), image)


class _DarkIsNuclear:
    """Stands for a network at 0.5 mpp, its head and its decoder: two squares are its nuclei, of one it is sure."""

    name, mpp, stride_px, decoder = "offsets", 0.5, 16, None
    head = property(lambda self: self)

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def maps(self, images: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        self.seen += [image.shape for image in images]
        return [((i[..., 0] < 160).astype(np.float32), np.zeros((2, *i.shape[:2]), np.float32)) for i in images]

    def decode(self, maps: tuple[np.ndarray, ...], decoder: None, calibration: dict[str, float]) -> Nuclei:
        assert maps[0].shape == maps[1].shape[1:] == (50, 60)
        rings = np.array([[2, 2], [2, 6], [6, 6], [6, 2], [10, 20], [10, 23], [13, 23], [13, 20]], dtype=float)
        return Nuclei(rings, np.array([0, 4, 8]), {"score": np.array([0.95, 0.6], dtype=np.float32)})


def test_what_a_network_says_has_the_textures_size() -> None:
    image, labels = discs(3, 101, 120)
    network = _DarkIsNuclear()
    mask, sure = nuclear_pixels(network, image, 0.2, 0.8)  # type: ignore[arg-type]
    assert mask.shape == sure.shape == (101, 120)
    assert all(side % 16 == 0 for side in network.seen[0][:2])
    assert (mask != (labels > 0)).mean() < 0.05
    rows, columns = np.nonzero(sure)
    assert (rows.min(), rows.max(), columns.min(), columns.max(), sure.max()) == (4, 11, 4, 11, 1)


def test_a_network_fills_in_what_it_finds(tmp_path: Path) -> None:
    Image.fromarray(discs(0, 96, 96)[0]).save(tmp_path / "texture.png")
    source = RenderedSource(tmp_path, count=2, size=64, network=Path("unet-0.5"))
    plain = dataclasses.replace(source, network=None)
    assert source.describe(FRAME)["network"][1] == 0.1
    assert not np.array_equal(whole(source).images, whole(plain).images)
    assert dataclasses.replace(source, dark_too=True).describe(FRAME) != source.describe(FRAME)


def test_a_datasets_patches_and_weights(patch_dataset: Path) -> None:
    pool = whole(SyntheticSource(patch_dataset))
    assert pool.images.shape == (40, 48, 48, 3)
    assert pool.weight[0] == pytest.approx(0.2)
    assert pool.weight[-1] == pytest.approx(2.0)
    assert (whole(SyntheticSource(patch_dataset, weights=False)).weight == 1).all()
    assert same(whole(SyntheticSource(patch_dataset, select=Select(span=(0.75, 0.875)))), pool.part(slice(30, 35)))
    held = whole(SyntheticSource(patch_dataset, select=Select(part="validation", every=8)))
    assert same(held, pool.part(np.arange(4, 40, 8)))
    assert len(whole(SyntheticSource(patch_dataset, select=Select(part="training", every=8)))) == 35
    cut_up = whole(SyntheticSource(patch_dataset), Frame(0.25, 48))
    assert cut_up.images.shape == (160, 48, 48, 3)
    assert (cut_up.weight.reshape(40, 4) == pool.weight[:, None]).all()


def test_what_is_no_dataset_is_refused(annotated: Path) -> None:
    with pytest.raises(UsageError, match="is no dataset"):
        whole(SyntheticSource(annotated))


def test_snow_tiles_are_a_folder_of_pairs(tmp_path: Path) -> None:
    data = write_snow(tmp_path / "s", 3)
    pool = whole(SnowSource(data), Frame(0.25, 128))
    for n in range(3):
        image, labels = discs(n, 128, 128)
        assert np.array_equal(pool.images[n], image)
        assert np.array_equal(pool.labels[n] > 0, labels > 0)
    (data / "few.txt").write_text("seed0001\n")
    assert len(whole(SnowSource(data, select=Select("few.txt")), Frame(0.25, 128))) == 1
    (data / "Mask" / "seed0002.mat").unlink()
    with pytest.raises(UsageError, match="no labels for seed0002"):
        whole(SnowSource(data))
