"""A block of tissue in haematoxylin and eosin that repeats without a seam in both directions.

Stain amounts are drawn as fields on a torus, in units of optical density, and turned into colour with the
Beer–Lambert law and stain vectors after Ruifrok and Johnston [1]_. It is a drawing with the statistics
that matter here (sizes, crowding, contrast, spectrum), no model of any organ.

References
----------
.. [1] Ruifrok, Johnston (2001): Quantification of histochemical staining by color deconvolution.
   Anal. Quant. Cytol. Histol. 23(4), 291–299.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage
from scipy.spatial import cKDTree

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.core.nuclei import Nuclei
from wsiseg.testing import nucleus as nuc

Layout = Literal["tissue", "seams", "dense"]
Field = npt.NDArray[np.float32]

HAEMATOXYLIN = np.array([0.60, 0.74, 0.30])
EOSIN = np.array([0.09, 0.87, 0.48])
GLASS = np.array([244, 243, 245], dtype=np.uint8)
_BLUR_UM = 0.16  # of the optics, one standard deviation
_COARSE = 4  # slowly varying fields are drawn on every 4th pixel
_CANDIDATES_PER_MM2 = 26_000


@dataclass(frozen=True)
class Block:
    """One period of tissue: P × P level-0 pixels.

    Attributes
    ----------
    tissue, bare : uint8 arrays (P, P, 3)
        With nuclei, and the same place without any.
    labels : int32 array (P, P)
        n + 1 where nucleus n covers the pixel's centre (wrapped around the block's edges).
    ragged : int8 array (P, P)
        A field in -127…127 by which a tissue edge is displaced.
    nuclei : Nuclei
        Outlines in block pixels, not wrapped, column ``class``.
    centres : float64 array (N, 2)
        x, y of the seeds in [0, P).
    """

    tissue: npt.NDArray[np.uint8]
    bare: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    ragged: npt.NDArray[np.int8]
    nuclei: Nuclei
    centres: FloatArray

    @property
    def period(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class _Ground:
    """What the tissue is where, on the coarse grid: fields in 0–1 except ``phase``."""

    epithelium: Field
    infiltrate: Field
    space: Field  # lumina and clefts: no tissue
    fibre: Field  # collagen bundles
    phase: Field  # of the bundles, which run across its gradient


def render_block(rng: np.random.Generator, period: int, mpp: float, layout: Layout, seam_px: int) -> Block:
    """Draw one block; ``seam_px`` is the spacing of the lines on which the layout "seams" puts nuclei."""
    ground = _lay_ground(rng, period, mpp, layout)
    seeds = _sow(rng, ground, period, mpp, layout, seam_px)
    nuclei = nuc.outlines(rng, seeds, period)
    centres = np.column_stack([seeds.x, seeds.y])
    labels = np.zeros((period, period), dtype=np.int32)
    depth = np.zeros((period, period), dtype=np.float32)
    nuc.paint_labels(nuclei.vertices.reshape(len(nuclei), -1, 2), centres, labels, depth)
    fine = noise(rng, period, 1.1 / mpp)
    haematoxylin, eosin = _stain_ground(rng, ground, fine, centres, mpp)
    ragged = np.clip(noise(rng, period, 14 / mpp) * 32 + fine * 3, -127, 127).astype(np.int8)
    del ground
    bare = _colour(haematoxylin, eosin, mpp)
    _stain_nuclei(rng, labels, depth, seeds.kind, fine, noise(rng, period, 2.4 / mpp), haematoxylin, eosin)
    tissue = _colour(haematoxylin, eosin, mpp)
    return Block(tissue, bare, labels, ragged, nuclei, centres)


def noise(rng: np.random.Generator, period: int, wavelength: float) -> Field:
    """A Gaussian random field on a torus, mean 0, deviation 1, with power around one wavelength in pixels."""
    step = 1
    while wavelength / (2 * step) >= 8 and period % (2 * step) == 0 and period // (2 * step) >= 16:
        step *= 2
    side = period // step
    spectrum = fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    frequency = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None]).astype(np.float32)
    # No wave is longer than the torus; without this a small block would have a field of zeros.
    centre = max(step / wavelength, 1.0 / side)
    spectrum *= np.exp(-0.5 * ((frequency - centre) / (0.45 * centre)) ** 2)
    spectrum[0, 0] = 0
    field = fft.irfft2(spectrum, s=(side, side)).astype(np.float32)
    field /= field.std()
    return field if step == 1 else enlarge(field, step)


@compiled
def enlarge(field: Field, step: int) -> Field:
    """Bilinear interpolation of a field on a torus to ``step`` times as many samples in each direction."""
    side = field.shape[0]
    out = np.empty((side * step, side * step), dtype=np.float32)
    for row in range(side * step):
        fy = (row + 0.5) / step - 0.5
        i = int(np.floor(fy))
        ty = np.float32(fy - i)
        above, under = field[i % side], field[(i + 1) % side]
        for column in range(side * step):
            fx = (column + 0.5) / step - 0.5
            j = int(np.floor(fx))
            tx = np.float32(fx - j)
            a, b = j % side, (j + 1) % side
            top = above[a] + tx * (above[b] - above[a])
            bottom = under[a] + tx * (under[b] - under[a])
            out[row, column] = top + ty * (bottom - top)
    return out


def _ramp(field: Field, low: float, high: float) -> Field:
    """0 at ``low``, 1 at ``high``, smooth between."""
    t = np.clip((field - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _lay_ground(rng: np.random.Generator, period: int, mpp: float, layout: Layout) -> _Ground:
    coarse = period // _COARSE
    unit = mpp * _COARSE  # microns per coarse pixel
    regions = noise(rng, coarse, 260 / unit) + 0.12 * noise(rng, coarse, 30 / unit)
    epithelium = _ramp(regions, -0.08, 0.08) if layout == "tissue" else _ramp(regions, -0.68, -0.52)
    if layout == "dense":
        epithelium = np.ones_like(epithelium)
    infiltrate = _ramp(noise(rng, coarse, 150 / unit), 0.7, 1.3) * (1 - epithelium)
    # Stripes whose phase is bent by slow noise: wavy bundles that keep their width.
    spacing = 11.0 / unit
    turns = max(1, round(coarse / spacing))
    angle = rng.uniform(0, 2 * np.pi)
    kx, ky = round(turns * np.cos(angle)), round(turns * np.sin(angle))
    grid = np.arange(coarse, dtype=np.float32) * np.float32(2 * np.pi / coarse)
    phase = kx * grid[None] + ky * grid[:, None]
    for wave, slope in ((220.0, 0.55), (60.0, 0.28), (24.0, 0.12)):
        phase = phase + np.float32(slope * wave / unit / spacing) * noise(rng, coarse, wave / unit)
    loose = noise(rng, coarse, 110 / unit)
    broken = noise(rng, coarse, 22 / unit)
    # Thick bundles, thin fibres inside them that follow a different bend, and clefts that end somewhere.
    thin = np.sin(2.6 * phase + 1.3 * broken) * _ramp(broken, -1.5, 1.0)
    bundles = 0.5 + 0.36 * np.sin(phase + 0.5 * broken) + 0.16 * thin
    cleft = _ramp(-bundles + 0.16 * loose + 0.13 * broken, -0.12, 0.02) * _ramp(loose + 0.6 * broken, -0.6, 0.5)
    cleft = cleft * (1 - epithelium)
    lumen = _ramp(noise(rng, coarse, 120 / unit) + 0.1 * noise(rng, coarse, 16 / unit), 1.75, 1.85)
    space = np.maximum(cleft, lumen * (0.0 if layout == "dense" else 1.0)).astype(np.float32)
    return _Ground(epithelium, infiltrate, space, bundles.astype(np.float32), phase.astype(np.float32))


def _sow(
    rng: np.random.Generator, ground: _Ground, period: int, mpp: float, layout: Layout, seam_px: int
) -> nuc.Seeds:
    """Seeds of all nuclei: those on the seams, then what the ground asks for, as far as there is room."""
    count = max(8, round(_CANDIDATES_PER_MM2 * (period * mpp / 1000) ** 2))
    xy = rng.uniform(0, period, (count, 2))
    column, row = (xy / _COARSE).astype(np.int64).T
    epithelium, infiltrate = ground.epithelium[row, column] > 0.5, ground.infiltrate[row, column]
    lymphocyte = rng.random(count) < np.where(epithelium, 0.03, 0.25 + 0.65 * infiltrate)
    kind = np.where(lymphocyte, nuc.LYMPHOCYTE, np.where(epithelium, nuc.EPITHELIAL, nuc.SPINDLE))
    wanted = rng.random(count) < np.where(epithelium, 0.55, 0.055 + 0.8 * infiltrate)
    wanted &= ground.space[row, column] < 0.15
    gy, gx = np.gradient(ground.phase, axis=0), np.gradient(ground.phase, axis=1)
    flow = np.arctan2(gy[row, column], gx[row, column]) + np.pi / 2
    free = nuc.draw_seeds(rng, xy[wanted], kind[wanted].astype(np.int16), flow[wanted], mpp)
    if layout != "seams":
        return nuc.settle(free, 0, period)
    on_seams = _sow_seams(rng, period, mpp, seam_px)
    return nuc.settle(on_seams.join(free), len(on_seams.x), period)


def _sow_seams(rng: np.random.Generator, period: int, mpp: float, seam_px: int) -> nuc.Seeds:
    """Touching groups on every line x = k·seam_px and y = k·seam_px, and at every crossing.

    Along a line, groups of four shapes take turns: a pair one behind the other on the line, a pair across
    the line, a triangle, and one large nucleus that the line halves.
    """
    radius = 4.6 / mpp
    pitch = 6 * radius
    steps = max(1, int((seam_px - 2 * pitch) // pitch))
    shapes = [
        np.array([[-0.85, 0.0], [0.85, 0.0]]),
        np.array([[0.0, -0.85], [0.0, 0.85]]),
        np.array([[-0.85, -0.45], [0.85, -0.45], [0.0, 0.95]]),
        np.array([[0.0, 0.0]]),
    ]
    crossing = np.array([[-0.8, -0.8], [0.8, -0.8], [-0.8, 0.8], [0.8, 0.8]])
    groups = []
    lines = np.arange(0, period, seam_px)
    turn = 0
    for along in lines:
        for across in lines:
            shift = rng.uniform(-0.6, 0.6, 2)
            groups.append(crossing * radius + np.array([along, across]) + shift * radius)
            for place in along + pitch * (1 + np.arange(steps)) + (seam_px - pitch * (steps + 1)) / 2:
                for axis in (0, 1):
                    group = shapes[turn % len(shapes)] * radius + np.array(
                        [place + rng.uniform(-0.5, 0.5) * radius, across + rng.uniform(-0.6, 0.6) * radius]
                    )
                    groups.append(group if axis == 0 else group[:, ::-1])
                    turn += 1
    xy = np.concatenate(groups) % period
    n = len(xy)
    kind = np.full(n, nuc.EPITHELIAL, dtype=np.int16)
    drawn = nuc.draw_seeds(rng, xy, kind, np.zeros(n), mpp)
    return nuc.Seeds(
        x=drawn.x,
        y=drawn.y,
        radius=np.full(n, radius) * rng.uniform(0.95, 1.1, n),
        elongation=rng.uniform(1.0, 1.12, n),
        angle=drawn.angle,
        clearance=drawn.clearance,
        kind=kind,
    )


def _stain_ground(
    rng: np.random.Generator, ground: _Ground, fine: Field, centres: FloatArray, mpp: float
) -> tuple[Field, Field]:
    """Haematoxylin and eosin of everything but the nuclei."""
    period = len(fine)
    epithelium, stroma, substance = ground.epithelium, 1 - ground.epithelium, 1 - ground.space
    border = _cell_borders(centres, period, mpp) * epithelium
    slow = noise(rng, period // _COARSE, 90 / mpp / _COARSE)
    medium = noise(rng, period, 7 / mpp)
    # Amount, and how strongly two noises vary it. All three change slowly, so they are enlarged only here.
    eosin = _textured(
        (stroma * (0.30 + 0.50 * ground.fibre) + 0.48 * epithelium - 0.16 * border + 0.07 * slow) * substance,
        ((0.06 * stroma + 0.07 * epithelium) * substance, medium),
        ((0.09 * stroma + 0.08 * epithelium) * substance, fine),
    )
    haematoxylin = _textured(
        (0.05 * stroma + 0.30 * epithelium + 0.16 * ground.infiltrate - 0.12 * border + 0.03 * slow) * substance,
        ((0.02 * stroma + 0.07 * epithelium) * substance, medium),
        (0.08 * epithelium * substance, fine),
    )
    return haematoxylin, eosin


def _textured(amount: Field, *textures: tuple[Field, Field]) -> Field:
    """A coarse amount, enlarged, plus textures with coarse weights; not below 0."""
    out = enlarge(amount.astype(np.float32), _COARSE)
    for weight, texture in textures:
        varied = enlarge(weight.astype(np.float32), _COARSE)
        varied *= texture
        out += varied
    return np.maximum(out, 0, out=out)


def _cell_borders(centres: FloatArray, period: int, mpp: float) -> Field:
    """1 half-way between a nucleus and the next one, where cells meet, on the coarse grid."""
    side = period // _COARSE
    axis = (np.arange(side) + 0.5) * _COARSE
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    distance, _ = cKDTree(centres % period, boxsize=period).query(points, k=min(2, len(centres)))
    if distance.ndim == 1:
        return np.zeros((side, side), dtype=np.float32)
    gap = (distance[:, 1] - distance[:, 0]).reshape(side, side).astype(np.float32) * np.float32(mpp)
    return 1 - _ramp(gap, 0.2, 1.8)


def _stain_nuclei(
    rng: np.random.Generator,
    labels: npt.NDArray[np.int32],
    depth: Field,
    kind: npt.NDArray[np.int16],
    fine: Field,
    clumps: Field,
    haematoxylin: Field,
    eosin: Field,
) -> None:
    """Replace the ground's stain, in place, inside the nuclei."""
    n = len(kind)
    strength = rng.normal(1.0, 0.14, n) * np.array([1.35, 1.95, 1.65])[kind]
    vesicular = rng.uniform(0.0, 1.0, n) ** 1.5 * np.array([0.55, 0.1, 0.2])[kind]
    mottled = rng.uniform(0.6, 1.3, n) * np.array([0.22, 0.14, 0.16])[kind]
    nucleoli = np.where(kind == nuc.EPITHELIAL, rng.uniform(0.0, 0.9, n), 0.0)
    inside = np.flatnonzero(labels)
    who = labels.ravel()[inside] - 1
    at, grain, lump = depth.ravel()[inside], fine.ravel()[inside], clumps.ravel()[inside]
    amount = strength[who] * (1 + mottled[who] * (0.7 * grain + lump))
    amount *= 1 - vesicular[who] * (1 - at**2)
    amount += strength[who] * 0.28 * _ramp(at, 0.72, 0.92)  # the membrane with its chromatin
    amount += nucleoli[who] * _ramp(lump, 1.5, 2.1) * (1 - _ramp(at, 0.6, 0.85))
    haematoxylin.ravel()[inside] = np.maximum(amount, 0.35)
    eosin.ravel()[inside] = 0.36 + 0.3 * eosin.ravel()[inside]


def _colour(haematoxylin: Field, eosin: Field, mpp: float) -> npt.NDArray[np.uint8]:
    """Beer–Lambert: 8-bit RGB of the stain amounts, seen through slightly blurring optics."""
    sigma = _BLUR_UM / mpp
    amounts = [ndimage.gaussian_filter(stain, sigma, mode="wrap", truncate=3.0) for stain in (haematoxylin, eosin)]
    image = np.empty((*haematoxylin.shape, 3), dtype=np.uint8)
    for channel in range(3):
        light = amounts[0] * np.float32(-HAEMATOXYLIN[channel])
        light -= amounts[1] * np.float32(EOSIN[channel])
        np.exp(light, out=light)
        light *= np.float32(GLASS[channel])
        image[..., channel] = np.rint(light, out=light)
    return image
