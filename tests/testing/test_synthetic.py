"""The synthetic slides themselves: what other tests take for true must be true."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import openslide
import pytest
import scipy.ndimage
import shapely
import tifffile

from wsiseg.core.geometry import Box, Window
from wsiseg.testing import (
    Truth,
    corrupt_tile,
    drop_tile,
    read_truth,
    strip_mpp,
    synthetic,
    tile_count,
    truncate,
    write_slide,
    write_svs,
)


def ramp(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Smooth, and different at every pixel in at least one channel."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[..., 0] = 200
    image[..., 1] = (np.arange(width) * 255 // width)[None]
    image[..., 2] = (np.arange(height) * 255 // height)[:, None]
    return image


def openslide_pixels(path: Path, level: int = 0) -> npt.NDArray[np.uint8]:
    with openslide.OpenSlide(path) as slide:
        region = slide.read_region((0, 0), level, slide.level_dimensions[level])
        return np.asarray(region)[..., :3].copy()


def painted(truth: Truth) -> npt.NDArray[np.int64]:
    """How many polygons of the truth cover each pixel's centre, by shapely."""
    count = np.zeros((truth.height, truth.width), dtype=np.int64)
    for polygon in truth.nuclei.geometry():
        x0, y0, x1, y1 = (int(np.floor(v)) for v in polygon.bounds)
        x, y = np.meshgrid(np.arange(x0, x1 + 1) + 0.5, np.arange(y0, y1 + 1) + 0.5)
        inside = shapely.contains_xy(polygon, x.ravel(), y.ravel()).reshape(x.shape)
        rows, columns = np.nonzero(inside)
        count[rows + y0, columns + x0] += 1
    return count


# --- write_svs


@pytest.mark.parametrize("tile", [240, 256])
def test_openslide_takes_it_for_aperio(tmp_path: Path, tile: int) -> None:
    path = write_svs(tmp_path / "a.svs", ramp(1003, 701), mpp=0.252, tile=tile)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.level_dimensions == ((1003, 701), (250, 175), (62, 43))
        assert [round(d) for d in slide.level_downsamples] == [1, 4, 16]
        assert set(slide.associated_images) == {"label", "macro", "thumbnail"}
        assert float(slide.properties["openslide.mpp-x"]) == 0.252
        assert slide.properties["openslide.objective-power"] == "40"
        assert slide.properties["openslide.level[0].tile-width"] == str(tile)


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_colours_survive_jpeg(tmp_path: Path, subsampling: Literal["444", "422", "420"]) -> None:
    image = ramp(600, 500)
    path = write_svs(tmp_path / "a.svs", image, quality=95, subsampling=subsampling)
    for pixels in (openslide_pixels(path), tifffile.imread(path)):
        assert np.abs(pixels.astype(int) - image).mean() < 1.0


def test_jpeg2000_is_lossless_in_openslide_and_tifffile(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (330, 290, 3), dtype=np.uint8)
    path = write_svs(tmp_path / "a.svs", image, codec="jpeg2000")
    np.testing.assert_array_equal(openslide_pixels(path), image)
    np.testing.assert_array_equal(tifffile.imread(path), image)


def test_lower_levels_are_exact_means(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (530, 1015, 3), dtype=np.uint8)
    path = write_svs(tmp_path / "a.svs", image, codec="jpeg2000", levels=(1, 4, 16), tile=240)
    expected = image
    for level in (1, 2):
        h, w = expected.shape[0] // 4, expected.shape[1] // 4
        blocks = expected[: 4 * h, : 4 * w].reshape(h, 4, w, 4, 3).astype(int)
        expected = np.floor(blocks.mean(axis=(1, 3)) + 0.5).astype(np.uint8)
        np.testing.assert_array_equal(openslide_pixels(path, level), expected)


def test_function_source_is_called_once_a_tile_inside_the_slide(tmp_path: Path) -> None:
    image, calls = ramp(500, 300), []

    def source(window: Window) -> npt.NDArray[np.uint8]:
        calls.append(window)
        return image[window.y : window.y1, window.x : window.x1]

    path = write_svs(tmp_path / "a.svs", source, (500, 300), codec="jpeg2000", tile=256, levels=(1, 2))
    assert calls == [
        Window(0, 0, 256, 256),
        Window(256, 0, 244, 256),
        Window(0, 256, 256, 44),
        Window(256, 256, 244, 44),
    ]
    np.testing.assert_array_equal(openslide_pixels(path), image)


def test_windows_with_one_key_are_rendered_once(tmp_path: Path) -> None:
    calls: list[Window] = []

    def source(window: Window) -> npt.NDArray[np.uint8]:
        calls.append(window)
        return np.full((*window.shape, 3), 10 + window.x // 16, dtype=np.uint8)

    size = (16 * 7 + 5, 16 * 5)
    path = write_svs(tmp_path / "a.svs", source, size, codec="jpeg2000", tile=16, levels=(1, 4), key=lambda w: w.x)
    assert Counter(w.x for w in calls) == dict.fromkeys(range(0, size[0], 16), 1)
    expected = np.broadcast_to((10 + np.arange(size[0]) // 16)[None, :, None], (size[1], size[0], 3))
    np.testing.assert_array_equal(openslide_pixels(path), expected)
    np.testing.assert_array_equal(openslide_pixels(path, 1), expected[: 4 * 20 : 4, : 4 * 29 : 4])


def test_without_mpp_or_associated_images(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "ü 😐.svs", ramp(300, 300), mpp=None, associated=False, properties={"User": "x"})
    with openslide.OpenSlide(path) as slide:
        assert "openslide.mpp-x" not in slide.properties
        assert not slide.associated_images
        assert slide.properties["aperio.User"] == "x"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 250}, "multiple of 16"),
        ({"levels": (2, 4)}, "expected the first to be 1"),
        ({"levels": (1, 4, 10)}, "does not divide"),
        ({"levels": (1, 4, 16, 64, 256, 1024)}, "nothing left"),
    ],
)
def test_refuses_what_does_not_go_together(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_svs(tmp_path / "a.svs", ramp(300, 300), **{"tile": 256, **options})


# --- write_slide


@pytest.fixture(scope="module")
def islands(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    path = tmp_path_factory.mktemp("islands") / "s.svs"
    return path, write_slide(path, width=1800, height=1300, seed=5, codec="jpeg2000")


def test_polygons_do_not_overlap_and_lie_inside(islands: tuple[Path, Truth]) -> None:
    _, truth = islands
    assert len(truth) > 50
    polygons = truth.nuclei.geometry()
    assert shapely.is_valid(polygons).all()
    assert painted(truth).max() == 1
    tree = shapely.STRtree(polygons)
    a, b = tree.query(polygons, predicate="intersects")
    once = a < b
    shared = shapely.area(shapely.intersection(polygons[a[once]], polygons[b[once]]))
    assert shared.max(initial=0.0) < 1e-6
    assert once.sum() >= 5  # some do touch
    bounds = truth.nuclei.bounds()
    assert bounds.min() >= 0
    assert bounds[:, 2].max() <= 1800
    assert bounds[:, 3].max() <= 1300


def test_sizes_are_those_of_nuclei(islands: tuple[Path, Truth]) -> None:
    _, truth = islands
    nuclei = truth.nuclei
    diameter_um = 2 * np.sqrt(nuclei.areas() / np.pi) * truth.mpp
    assert np.quantile(diameter_um, 0.02) > 4
    assert diameter_um.max() < 14.5
    assert set(np.unique(nuclei.columns["class"])) == {0, 1, 2}


def test_picture_shows_nuclei_exactly_where_the_truth_says(islands: tuple[Path, Truth]) -> None:
    """Shifting the truth by half a pixel in any direction must fit the picture worse."""
    path, truth = islands
    red = 255.0 - openslide_pixels(path)[..., 0]
    inside = painted(truth).astype(float)
    level = red[inside > 0].mean()
    around = red[(inside == 0) & (red > 30)].mean()
    assert level > 2 * around
    # The covariance of picture and mask, as a function of the shift, peaks where the two coincide.
    spectrum = np.fft.rfft2(red - red.mean()) * np.conj(np.fft.rfft2(inside - inside.mean()))
    correlation = np.fft.irfft2(spectrum, s=red.shape)
    assert np.unravel_index(np.argmax(correlation), correlation.shape) == (0, 0)
    for axis in (0, 1):
        left, middle, right = (np.roll(correlation, 1 - k, axis)[0, 0] for k in range(3))
        offset = 0.5 * (left - right) / (left - 2 * middle + right)
        assert abs(offset) < 0.06


def test_nothing_is_drawn_that_the_truth_lacks(islands: tuple[Path, Truth]) -> None:
    path, truth = islands
    image = openslide_pixels(path).astype(int)
    dark = (image[..., 0] < 100) & (painted(truth) == 0)
    # The optics blur an outline by about a pixel; anything larger would be a nucleus without a polygon.
    assert not scipy.ndimage.binary_opening(dark, iterations=3).any()


def test_glass_and_tissue(islands: tuple[Path, Truth]) -> None:
    path, truth = islands
    image = openslide_pixels(path)
    glass = (image == np.array([244, 243, 245])).all(axis=-1)
    assert 0.3 < glass.mean() < 0.8
    assert 0.3 < truth.tissue.mean() < 0.6
    assert glass[0].all()
    assert glass[:, -1].all()


def test_same_seed_same_bytes_other_seed_other_slide(tmp_path: Path) -> None:
    def digest(name: str, seed: int) -> tuple[str, int]:
        truth = write_slide(tmp_path / "x.svs", width=600, height=500, seed=seed)
        (tmp_path / "x.svs").rename(tmp_path / name)
        return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest(), len(truth)

    first, again, other = digest("a.svs", 1), digest("b.svs", 1), digest("c.svs", 2)
    assert first == again
    assert other[0] != first[0]


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_seams_layout_puts_nuclei_across_every_line(drawn: tuple[Path, Truth], tmp_path: Path, mpp: float) -> None:
    line, truth = round(1024 * 0.25 / mpp), drawn[1]
    if mpp != truth.mpp:
        side = 3 * line
        truth = write_slide(tmp_path / "s.svs", width=side, height=side, mpp=mpp, layout="seams", seed=3)
    bounds, centroids = truth.nuclei.bounds(), truth.centroids()
    for axis in (0, 1):
        for at in (line, 2 * line):
            crossing = (bounds[:, axis] < at - 1) & (bounds[:, axis + 2] > at + 1)
            assert crossing.sum() >= 12
            # Both sides own some of them: ownership by the reference point is put to the test.
            assert (centroids[crossing, axis] < at).sum() >= 3
            assert (centroids[crossing, axis] >= at).sum() >= 3
    polygons = truth.nuclei.geometry()
    for x in (line, 2 * line):
        for y in (line, 2 * line):
            near = shapely.dwithin(polygons, shapely.Point(x, y), 6.0 / mpp)
            assert near.sum() >= 4
            group = polygons[near]
            a, b = shapely.STRtree(group).query(group, predicate="dwithin", distance=0.75)
            assert (a < b).sum() >= 3


def test_dense_layout_repeats_the_block_with_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slide larger than its block: the truth must follow every copy, and lower levels too."""
    monkeypatch.setattr(synthetic, "_LARGEST_BLOCK", 1024)
    path = tmp_path / "d.svs"
    truth = write_slide(path, width=2500, height=1500, layout="dense", seed=2, codec="jpeg2000")
    boxes = Box(200, 200, 1200, 450), Box(1224, 200, 2224, 450), Box(200, 1224, 1200, 1250)
    here, right, below = (truth.within(box) for box in boxes)
    assert len(here) == len(right) > 50
    np.testing.assert_allclose(here.translate(1024, 0).vertices, right.vertices)
    strip = truth.within(Box(200, 200, 1200, 226))
    np.testing.assert_allclose(strip.translate(0, 1024).vertices, below.vertices)
    mask = painted(truth) > 0
    pixels = openslide_pixels(path)
    for box in boxes:
        window = np.s_[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
        picture, inside = pixels[window][..., 0], mask[window]
        assert picture[inside].mean() < picture[~inside].mean() - 50
    low = openslide_pixels(path, 1)
    mean = pixels.reshape(375, 4, 625, 4, 3).mean(axis=(1, 3))
    assert np.abs(low - mean).max() <= 0.5


def test_truth_travels_through_parquet_in_parts(islands: tuple[Path, Truth], tmp_path: Path) -> None:
    _, truth = islands
    back = read_truth(truth.save(tmp_path / "truth.parquet"))
    np.testing.assert_array_equal(back.vertices, truth.nuclei.vertices)
    np.testing.assert_array_equal(back.columns["class"], truth.nuclei.columns["class"])
    parts = list(truth.iter_nuclei(17))
    assert [len(part) for part in parts[:-1]] == [17] * (len(parts) - 1)
    assert sum(len(part) for part in parts) == len(truth)
    np.testing.assert_allclose(truth.nuclei.centroids(), truth.centroids())


def test_without_mpp_in_the_metadata(tmp_path: Path) -> None:
    write_slide(tmp_path / "s.svs", width=512, height=512, describe_mpp=False)
    with openslide.OpenSlide(tmp_path / "s.svs") as slide:
        assert "openslide.mpp-x" not in slide.properties


@pytest.mark.parametrize(
    ("mpp", "seam"), [(0.25, 1024), (0.252, 1024), (0.5, 512), (0.499, 512), (1.0, 256), (0.23, 1120)]
)
def test_default_seams_follow_the_scale_at_which_slides_are_read(mpp: float, seam: int) -> None:
    assert synthetic._default_seam(mpp) == seam


def test_tiny_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seam_px"):
        write_slide(tmp_path / "s.svs", width=100, height=100, seam_px=100)


_LARGE = """
import sys
from pathlib import Path
from wsiseg.testing import write_slide
truth = write_slide(sys.argv[1], width=16000, height=16000)
# Not ru_maxrss: that begins with what the process held that started this one.
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(len(truth), int(status["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_slide_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.svs"
    done = subprocess.run([sys.executable, "-c", _LARGE, str(path)], capture_output=True, text=True, check=True)
    count, megabytes = map(int, done.stdout.split())
    assert count > 15_000
    assert megabytes < 1500
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((16000, 16000), (4000, 4000), (1000, 1000))


# --- faults


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_svs(tmp_path / "a.svs", ramp(1000, 700), tile=240)


def test_corrupt_tile_breaks_that_tile_only(slide: Path) -> None:
    assert tile_count(slide) == 15
    corrupt_tile(slide, 7)  # row 1, column 2
    with openslide.OpenSlide(slide) as handle:
        assert handle.read_region((0, 0), 0, (240, 240)).size == (240, 240)
    with openslide.OpenSlide(slide) as handle, pytest.raises(openslide.OpenSlideError, match="JPEG"):
        handle.read_region((500, 250), 0, (10, 10))


def test_drop_tile_leaves_a_hole(slide: Path) -> None:
    before = openslide_pixels(slide)
    drop_tile(slide, 7)
    with openslide.OpenSlide(slide) as handle:
        alpha = np.asarray(handle.read_region((0, 0), 0, (1000, 700)))
    assert (alpha[240:480, 480:720, 3] == 0).all()
    assert (alpha[..., 3] == 0).sum() == 240 * 240
    np.testing.assert_array_equal(alpha[:240, :, :3], before[:240])


def test_faults_can_hit_lower_levels(slide: Path) -> None:
    assert tile_count(slide, 1) == 2
    corrupt_tile(slide, 1, level=1)
    with openslide.OpenSlide(slide) as handle:
        handle.read_region((0, 0), 0, (1000, 700))
        with pytest.raises(openslide.OpenSlideError):
            handle.read_region((0, 0), 1, handle.level_dimensions[1])


def test_strip_mpp_leaves_the_rest(slide: Path) -> None:
    before = openslide_pixels(slide)
    strip_mpp(slide)
    with openslide.OpenSlide(slide) as handle:
        assert "openslide.mpp-x" not in handle.properties
        assert handle.properties["openslide.objective-power"] == "40"
    np.testing.assert_array_equal(openslide_pixels(slide), before)


def test_truncate_keeps_the_beginning(slide: Path) -> None:
    whole = slide.read_bytes()
    truncate(slide, 0.5)
    assert slide.read_bytes() == whole[: len(whole) // 2]


def test_import_is_light() -> None:
    code = "import sys, wsiseg.testing; print({'torch', 'distributed', 'dask'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
