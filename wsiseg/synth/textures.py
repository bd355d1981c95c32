"""What a real patch lends to a rendered one: its background without nuclei, and the colours of its nuclei."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.core.histogram import otsu_bin

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Texture:
    """One unlabelled patch, taken apart.

    Attributes
    ----------
    background : float32 array (H, W, 3)
        Optical density with the nuclei filled in from around them.
    nuclear_mean, nuclear_sd : float32 array (K, 3)
        Mean and standard deviation of the optical density of K nucleus-like components.
    density : float
        Fraction of the patch that looked nuclear, 0–1.
    mean, sd : float32 array (3,)
        Of the optical density of the whole patch: its stain and exposure.
    """

    background: Float32
    nuclear_mean: Float32
    nuclear_sd: Float32
    density: float
    mean: Float32
    sd: Float32


def optical_density(rgb: npt.NDArray[np.uint8]) -> Float32:
    """-ln(I / 255), one level added against log 0."""
    return -np.log((rgb.astype(np.float32) + 1.0) / 256.0)


def to_rgb(density: Float32) -> npt.NDArray[np.uint8]:
    """The inverse of :func:`optical_density`, rounded and clipped."""
    return np.clip(np.exp(-density) * 256.0 - 0.5, 0, 255).astype(np.uint8)


def otsu_level(values: npt.NDArray[np.floating]) -> float:
    """What divides values best in two: the centre of :func:`wsiseg.core.histogram.otsu_bin` of 256 bins."""
    counts, edges = np.histogram(values, 256)
    centres = 0.5 * (edges[1:] + edges[:-1])
    return float(centres[otsu_bin(counts, centres)])


def dissect(
    rgb: npt.NDArray[np.uint8], nuclear: npt.NDArray[np.bool_] | None = None, *, dark_too: bool = False
) -> Texture:
    """Take a patch of 0.25 mpp apart.

    Parameters
    ----------
    rgb : uint8 array (H, W, 3)
    nuclear : bool array (H, W), optional
        Pixels that may be nuclear, for example by an earlier network, in place of those found by optical density.
        Pale nuclei left in the background would be taught as background; dark structures that are not nuclei
        stay there as they are.
    dark_too : bool
        With ``nuclear``: what absorbs as much red as nuclei do is filled in too, for a network that misses some.
    """
    density = optical_density(rgb)
    red = ndimage.gaussian_filter(density[..., 0], 1.0)  # haematoxylin absorbs red, eosin hardly does
    threshold = otsu_level(red)
    dark = red > threshold
    base = float(np.median(red[~dark])) if (~dark).any() else threshold
    generous = ndimage.binary_opening(red > base + 0.7 * (threshold - base), iterations=2)
    core = ndimage.binary_opening(dark, iterations=3)
    if nuclear is not None:
        generous = nuclear | ndimage.binary_opening(dark) if dark_too else nuclear
        core = ndimage.binary_opening(ndimage.binary_erosion(nuclear, iterations=2), iterations=2)
    hole = ndimage.binary_dilation(generous, iterations=4)
    mean, sd = _components(density, core)
    return Texture(
        _fill(density, hole),
        mean,
        sd,
        float(core.mean()),
        density.mean(axis=(0, 1)),
        density.std(axis=(0, 1)),
    )


def load_images(folder: Path) -> list[tuple[str, npt.NDArray[np.uint8]]]:
    """Name and pixels, uint8 (H, W, 3), of every PNG, WebP and TIFF in ``folder``, in the order of the names."""
    from PIL import Image

    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".png", ".webp", ".tif", ".tiff"})
    return [(path.stem, np.asarray(Image.open(path).convert("RGB"))) for path in paths]


def rescale_image(image: npt.NDArray[np.uint8], factor: float) -> npt.NDArray[np.uint8]:
    """``image`` (H, W, 3) enlarged by ``factor``: by means of what a pixel covers below 1, by cubics above."""
    from PIL import Image

    if factor == 1:
        return image
    size = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
    method = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize(size, method))


def load_textures(folder: Path, masks: Path | None = None) -> list[Texture]:
    """Every patch of ``folder`` taken apart; ``masks`` is an optional folder of ``<name>.png``, not 0 = nuclear."""
    from PIL import Image

    textures = []
    for name, rgb in load_images(folder):
        mask = None
        if masks is not None and (masks / f"{name}.png").exists():
            mask = np.asarray(Image.open(masks / f"{name}.png")) > 0
        textures.append(dissect(rgb, mask))
    return textures


def _components(density: Float32, mask: npt.NDArray[np.bool_]) -> tuple[Float32, Float32]:
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = np.flatnonzero((sizes >= 80) & (sizes <= 4000))
    keep = keep[keep > 0]
    if keep.size < 3:  # too few to trust: one mean colour of the darkest twentieth
        red = density[..., 0]
        pixels = density[red >= np.quantile(red, 0.95)]
        return pixels.mean(axis=0)[None], pixels.std(axis=0)[None]
    mean = np.stack([ndimage.mean(density[..., c], labels, keep) for c in range(3)], axis=1)
    sd = np.stack([ndimage.standard_deviation(density[..., c], labels, keep) for c in range(3)], axis=1)
    return mean.astype(np.float32), sd.astype(np.float32)


def _fill(density: Float32, hole: npt.NDArray[np.bool_]) -> Float32:
    """Smooth fill from the surroundings (normalised convolution), with fine structure moved in from elsewhere."""
    valid = (~hole).astype(np.float32)
    smooth = np.zeros_like(density)
    unknown = np.ones(hole.shape, dtype=np.float32)
    for sigma in (2.5, 6.0, 14.0, 40.0):
        weight = ndimage.gaussian_filter(valid, sigma)
        trust = np.clip(weight / 0.15, 0.0, 1.0) * unknown
        if sigma == 40.0:
            trust = unknown
        for c in range(3):
            value = ndimage.gaussian_filter(density[..., c] * valid, sigma) / np.maximum(weight, 1e-4)
            smooth[..., c] += trust * value
        unknown = unknown - trust
    detail = density - np.stack([ndimage.gaussian_filter(density[..., c], 5.0) for c in range(3)], axis=2)
    inner = ndimage.binary_erosion(~hole, iterations=5)
    filled = smooth.copy()
    missing = hole.copy()
    shifts = [(53, 17), (-41, 67), (97, -83), (-131, -29), (29, 151), (181, 109), (-17, -173), (71, 199)]
    for dy, dx in shifts:
        usable = missing & np.roll(inner, (dy, dx), axis=(0, 1))
        filled[usable] += np.roll(detail, (dy, dx), axis=(0, 1))[usable]
        missing &= ~usable
    # The seam between real and filled pixels is feathered: a crisp edge would say where a nucleus was.
    feather = ndimage.gaussian_filter(hole.astype(np.float32), 2.0)[..., None]
    return np.maximum(density * (1 - feather) + filled * feather, 0.0).astype(np.float32)
