"""A real tile taken apart, and a patch put together from it: inpainted tissue, coloured nuclei, distractors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.core.compiled import compiled
from wsiseg.core.stain import eosin, hematoxylin
from wsiseg.synth.parts import Field, Texture, crop, turned
from wsiseg.synth.textures import otsu_level

Float32 = npt.NDArray[np.float32]
BoolMask = npt.NDArray[np.bool_]

INPAINT_RADIUS = 3
TISSUE_SD = 8.0
_SHIFTS = ((19, 7), (-13, 23), (29, -31), (-43, -11), (11, 53), (61, 37), (-7, -71), (89, 17), (-97, 61))
_DARKEST = 100.0
"""A mean nuclear colour all of whose channels are above this is no haematoxylin."""


@dataclass(frozen=True)
class Tile:
    """One unlabelled tile of 0.25 mpp, taken apart.

    Attributes
    ----------
    image : uint8 array (H, W, 3)
    background : float32 array (H, W, 3)
        RGB with the haematoxylin-positive pixels inpainted.
    eosin : float32 array (H, W)
        Eosin channel, scaled to 0–1.
    nuclear, pale : float32 array (3,)
        Mean RGB of the positive pixels, and of a paler band of haematoxylin.
    foreground : float
        Haematoxylin-positive fraction by Otsu's threshold, 0–1.
    tissue : bool array (H, W)
        Where the background's local standard deviation is at least 8 grey levels.
    """

    image: npt.NDArray[np.uint8]
    background: Float32
    eosin: Float32
    nuclear: Float32
    pale: Float32
    foreground: float
    tissue: BoolMask

    @property
    def usable(self) -> bool:
        """Whether the tile has nuclei to take a colour from."""
        return float(self.nuclear.min()) <= _DARKEST


def take_apart(image: npt.NDArray[np.uint8]) -> Tile:
    """Background, nuclear colour, textures and density of a tile, uint8 (H, W, 3)."""
    stain = hematoxylin(image)
    level = otsu_level(stain)
    foreground = float((stain > level).mean())
    # A little more than what is positive is filled in, a little less lends its colour, as published.
    upper = 1.0 - 0.92 * foreground
    middle = 0.5 * (upper + 0.35)
    lowest = 1.0 - min(1.08 * foreground, 1.0)
    filled_in, coloured, darkest, pale_low, pale_high = np.quantile(
        stain, [lowest, upper, max(0.99, upper + 0.005), max(middle - 0.25, 0.0), middle - 0.12]
    )
    hole = stain > filled_in
    hole = ndimage.gaussian_filter(hole.astype(np.float32), 0.5) > 0.5
    hole = ndimage.binary_dilation(hole, iterations=2)  # the blurred rim would spread its colour into the hole
    core = (stain > coloured) & (stain < darkest)
    band = (stain > pale_low) & (stain < pale_high)
    background = with_grain(inpaint(image, hole), image, hole)
    return Tile(
        image,
        background,
        _unit(eosin(image)),
        _mean_colour(image, core),
        _mean_colour(image, band),
        foreground,
        _tissue(background),
    )


@lru_cache(maxsize=256)
def take_apart_once(field: Field) -> Tile:
    """:func:`take_apart` of a field, once a process."""
    return take_apart(field.image)


def reference_of(texture: Texture, side: int) -> npt.NDArray[np.uint8]:
    """What a refiner and its discriminator compare with: the part of the same field farthest away."""
    return texture.elsewhere(side).under(texture.field.image, side)


def random_eosin(rng: np.random.Generator, tile: Tile, side: int) -> Float32:
    """A random part of a tile's eosin channel, turned at random; float32 (side, side)."""
    room = np.maximum(np.array(tile.eosin.shape) - side, 0)
    i, j = rng.integers(0, room + 1).tolist()
    return np.ascontiguousarray(turned(crop(tile.eosin, (i, j), side), int(rng.integers(8))))


def inpaint(image: npt.NDArray[np.uint8], hole: BoolMask, radius: int = INPAINT_RADIUS) -> Float32:
    """Fill ``hole`` from its border inwards.

    As Telea's method (doi:10.1080/10867651.2004.10487596), pixels are visited by their distance from the border,
    and each becomes a mean of the known ones within ``radius``, those across the border weighing most. The distance
    is Euclidean, not from fast marching, and known gradients are not extrapolated.

    Returns
    -------
    float32 array (H, W, 3)
        Equal to ``image`` outside the hole.
    """
    filled = image.astype(np.float32)
    if not hole.any():
        return filled
    if hole.all():
        filled[:] = np.median(filled, axis=(0, 1))
        return filled
    distance = ndimage.distance_transform_edt(hole).astype(np.float32)
    rows, columns = np.nonzero(hole)
    order = np.argsort(distance[rows, columns], kind="stable")
    _march(filled, hole.copy(), distance, rows[order], columns[order], radius)
    return filled


def with_grain(filled: Float32, image: npt.NDArray[np.uint8], hole: BoolMask) -> Float32:
    """Fine structure of the tissue around, moved into what was filled in.

    Inpainting alone leaves flat facets of the shape of nuclei, unlabelled ghosts that a network could learn to
    tell from tissue (or nuclei). The structure below 3 px is that of the nearest of a few shifted copies of the
    tile that has tissue there.

    Returns
    -------
    float32 array (H, W, 3)
        Equal to ``filled`` outside the hole.
    """
    smooth = ndimage.gaussian_filter(filled, (2.0, 2.0, 0))
    detail = filled - ndimage.gaussian_filter(filled, (3.0, 3.0, 0))
    known = ~ndimage.binary_dilation(hole, iterations=3)
    result = np.where(hole[..., None], smooth, filled)
    missing = hole.copy()
    for shift in _SHIFTS:
        usable = missing & np.roll(known, shift, axis=(0, 1))
        result[usable] += np.roll(detail, shift, axis=(0, 1))[usable]
        missing &= ~usable
    return np.clip(result, 0.0, 255.0).astype(np.float32)


@compiled
def _march(
    image: Float32,
    hole: BoolMask,
    distance: Float32,
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    radius: int,
) -> None:
    height, width = hole.shape
    for n in range(len(rows)):
        i, j = rows[n], columns[n]
        up, down = max(i - 1, 0), min(i + 1, height - 1)
        left, right = max(j - 1, 0), min(j + 1, width - 1)
        gy, gx = distance[down, j] - distance[up, j], distance[i, right] - distance[i, left]
        total, red, green, blue = 0.0, 0.0, 0.0, 0.0
        for y in range(max(i - radius, 0), min(i + radius + 1, height)):
            for x in range(max(j - radius, 0), min(j + radius + 1, width)):
                square = (y - i) ** 2 + (x - j) ** 2
                if hole[y, x] or square == 0 or square > radius * radius:
                    continue
                along = abs((i - y) * gy + (j - x) * gx) / np.sqrt(square)
                weight = (along + 0.05) / (square * (1.0 + abs(distance[y, x] - distance[i, j])))
                total += weight
                red += weight * image[y, x, 0]
                green += weight * image[y, x, 1]
                blue += weight * image[y, x, 2]
        if total > 0.0:
            image[i, j, 0], image[i, j, 1], image[i, j, 2] = red / total, green / total, blue / total
        hole[i, j] = False


def compose(
    rng: np.random.Generator,
    labels: npt.NDArray[np.int32],
    tile: Tile,
    background: Float32,
    textures: tuple[Float32, Float32],
    spiky: BoolMask,
    pale: BoolMask,
) -> npt.NDArray[np.uint8]:
    """Paint distractors and nuclei over a background.

    Parameters
    ----------
    rng : numpy.random.Generator
    labels : int32 array (h, w)
    tile : Tile
        Lends its colours.
    background : float32 array (h, w, 3)
        RGB; a part of ``tile.background``.
    textures : two float32 arrays (h, w)
        Eosin channels scaled to 0–1: what modulates the colour, and what makes holes in nuclei.
    spiky, pale : bool array (h, w)
        The distractors.

    Returns
    -------
    uint8 array (h, w, 3)
    """
    colour_texture, hole_texture = textures
    canvas = _more_haematoxylin(rng, _vary(rng, background, 0.1))
    if pale.any():
        body = _vary(rng, _body(rng, tile.pale, colour_texture), 0.02)
        alpha = _alpha(rng, pale.astype(np.int32), hole_texture, blurred=True)
        canvas += alpha * (body - canvas)
    if spiky.any():
        body = _vary(rng, _body(rng, tile.nuclear, colour_texture), 1.0)
        canvas += _clutter(rng, spiky, hole_texture) * (body - canvas)
    body = _vary(rng, _body(rng, tile.nuclear, colour_texture), 0.1)
    canvas += _alpha(rng, labels, hole_texture, blurred=False) * (body - canvas)
    return np.rint(np.clip(canvas, 0.0, 250.0)).astype(np.uint8)


def _body(rng: np.random.Generator, colour: Float32, texture: Float32) -> Float32:
    """The nuclear colour everywhere, modulated by a real texture, grain, and slow changes of intensity."""
    # The published factor 1.3 t has any mean; a mean of 1 keeps the colour that was measured.
    relative = np.clip(1.3 * (texture - texture.mean()) + 1.0, 0.5, 1.5)
    body = relative[..., None] * colour
    body = body + (rng.random(body.shape) - 0.5) * np.array([3.2, 2.6, 5.2])
    for c in range(3):
        if rng.random() < 0.5:
            body[..., c] = ndimage.convolve(body[..., c], _kernel(rng, 3 if rng.random() < 0.7 else 5, 3.0, 10.0))
    # Published as a factor of the intensity, one field a channel. As an exponent, a factor of the optical density,
    # and mostly shared by the channels, it leaves nuclei their hue: otherwise some turn grey.
    slow = 0.66 * (_slow(rng, texture.shape) - 0.5) + 1.0
    tint = np.stack([0.12 * (_slow(rng, texture.shape) - 0.5) + 1.0 for _ in range(3)], axis=2)
    intensity = np.clip(body, 1.0, 255.0) / 255.0
    return (255.0 * intensity ** (1.0 / (slow[..., None] * tint))).astype(np.float32)


def _alpha(rng: np.random.Generator, labels: npt.NDArray[np.int32], texture: Float32, *, blurred: bool) -> Float32:
    """Opacity (h, w, 1) of nuclei: pale where the texture is low, with a jittered rim, blurred."""
    inside = labels > 0
    grain = _coarse(rng, texture.shape, texture.shape[0] // 2, texture.shape[1] // 2)
    rough = texture + 0.06 * rng.random() * grain
    rough = rough + 0.06 * rng.random() * rng.random(texture.shape)
    count = int(labels.max())
    area = float(inside.sum()) / max(count, 1)
    if area > 2400.0:  # large nuclei are the vesicular ones
        holes = 10.0 + 42.0 * rng.random()
    elif area < 800.0 or rng.random() < 0.4:
        holes = 15.0 * rng.random()
    else:
        holes = 42.0 * rng.random()
    solid = rough > np.percentile(rough, holes)
    rim = inside & (ndimage.grey_erosion(labels, size=(3, 3), mode="nearest") != labels)
    rim |= inside & (ndimage.grey_dilation(labels, size=(3, 3), mode="nearest") != labels)
    if 10.0 < holes < 30.0 and rng.random() < 0.3:
        rim |= inside & ~ndimage.binary_erosion(inside, iterations=int(rng.integers(2, 5)), border_value=1)
    if holes >= 20.0:
        rim &= rng.random(rim.shape) > 0.3 * rng.random()
    blocks = _coarse(rng, rim.shape, rim.shape[0] // 5, rim.shape[1] // 5) > (150 + 100 * rng.random()) / 255
    opacity = ((inside & (solid | blocks)) | rim).astype(np.float32)
    opacity = np.maximum(opacity, inside * np.float32(0.2 + 0.4 * rng.random()))  # no window onto empty glass
    draw = rng.random()
    if blurred:
        radius = 7 if draw < 0.33 else 9
    elif holes < 20.0:
        radius = 3 if draw < 0.05 or area < 700.0 else 5 if draw < 0.7 else 7
    else:
        radius = 3 if draw < 0.1 else 5
    return _uneven_blur(rng, opacity, radius)[..., None]


def _clutter(rng: np.random.Generator, mask: BoolMask, texture: Float32) -> Float32:
    """Opacity (h, w, 1) of spiky debris: only the highest sixth of a noisy texture shows."""
    rough = texture + (0.2 + 0.3 * rng.random()) * rng.random(texture.shape)
    shown = mask & (rough > np.percentile(rough, 85))
    draw = rng.random()
    return _uneven_blur(rng, shown.astype(np.float32), 3 if draw < 0.6 else 5 if draw < 0.98 else 7)[..., None]


def _uneven_blur(rng: np.random.Generator, opacity: Float32, radius: int) -> Float32:
    """A random kernel everywhere, and two more on random rectangles: focus changes over a patch."""
    opacity = ndimage.convolve(opacity, _kernel(rng, radius, 2.0, 2.0 + 12.0 * rng.random()), mode="nearest")
    if rng.random() < 0.85:
        height, width = opacity.shape
        for _ in range(2):
            i, j = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
            stops = int(rng.integers(height // 2, height)) + 1, int(rng.integers(width // 2, width)) + 1
            part = (slice(i, stops[0]), slice(j, stops[1]))
            kernel = _kernel(rng, 5, 2.0, 16.0 + 48.0 * rng.random())
            opacity[part] = ndimage.convolve(opacity, kernel, mode="nearest")[part]
    return np.clip(opacity, 0.0, 1.0).astype(np.float32)


def _kernel(rng: np.random.Generator, side: int, base: float, centre: float) -> Float32:
    kernel = rng.random((side, side)) + base
    kernel[side // 2, side // 2] += centre
    return (kernel / kernel.sum()).astype(np.float32)


def _coarse(rng: np.random.Generator, shape: tuple[int, ...], rows: int, columns: int) -> Float32:
    """Smooth noise in 0–1: a random grid of rows × columns, enlarged bilinearly."""
    grid = rng.random((max(rows, 2), max(columns, 2))).astype(np.float32)
    y = np.linspace(0, grid.shape[0] - 1, shape[0])
    x = np.linspace(0, grid.shape[1] - 1, shape[1])
    values: Float32 = ndimage.map_coordinates(grid, np.meshgrid(y, x, indexing="ij"), order=1)
    return values


def _slow(rng: np.random.Generator, shape: tuple[int, ...]) -> Float32:
    field = _coarse(rng, shape, int(rng.integers(2, 9)), int(rng.integers(2, 9)))
    smooth: Float32 = ndimage.uniform_filter(field, max(shape[0] // 5, 1))
    return smooth


def _vary(rng: np.random.Generator, image: Float32, amount: float) -> Float32:
    """Contrast and level of each channel changed by up to 9% and 6 grey levels, times ``amount``."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    contrast = 1.0 + 0.09 * amount * rng.uniform(-1.0, 1.0, 3)
    return ((image - mean) * contrast + mean + 6.0 * amount * rng.uniform(-1.0, 1.0, 3)).astype(np.float32)


def _more_haematoxylin(rng: np.random.Generator, image: Float32) -> Float32:
    """Up to 0.04 of haematoxylin's optical density added everywhere."""
    absorbed = 10.0 ** (-0.04 * rng.random() * np.array([0.65, 0.70, 0.29]))
    return (image * absorbed).astype(np.float32)


def _mean_colour(image: npt.NDArray[np.uint8], mask: BoolMask) -> Float32:
    pixels = image[mask] if mask.any() else image.reshape(-1, 3)
    mean: Float32 = pixels.mean(axis=0).astype(np.float32)
    return mean


def _tissue(background: Float32) -> BoolMask:
    """Local standard deviation of at least 8 grey levels over a thirteenth of 200 px, mean of the channels."""
    window = 15
    mean = ndimage.uniform_filter(background, (window, window, 0))
    square = ndimage.uniform_filter(background.astype(np.float64) ** 2, (window, window, 0))
    sd = np.sqrt(np.maximum(square - mean.astype(np.float64) ** 2, 0.0)).mean(axis=2)
    tissue: BoolMask = ndimage.uniform_filter(sd, 3 * window) >= TISSUE_SD
    return tissue


def _unit(values: Float32) -> Float32:
    low, high = np.quantile(values, [0.001, 0.999])
    scaled: Float32 = np.clip((values - low) / max(float(high - low), 1e-6), 0.0, 1.0).astype(np.float32)
    return scaled
