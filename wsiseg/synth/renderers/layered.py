"""``layered``: the default's paint (:mod:`wsiseg.synth.render`) on nuclei of any outline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.synth.distractors import add_distractors
from wsiseg.synth.layout import Layout as Arrangement
from wsiseg.synth.paint import noise_fields, paint_region
from wsiseg.synth.parts import Field, Layout, Patch, Renderer, Texture, require_mpp
from wsiseg.synth.render import add_bodies, group_colours, jpeg, optics, sample_group_looks, sample_look
from wsiseg.synth.shapes import MPP, SHAPE_FIELDS, Float32
from wsiseg.synth.textures import Texture as Dissected
from wsiseg.synth.textures import dissect, to_rgb

_GROUPS = 5
_PALE_UM2 = (25.0, 70.0)
"""Lymphocytes are smaller than the first and hardly ever vesicular, nuclei of more than the second often are."""
_PALE = (0.05, 0.42)


@dataclass(frozen=True)
class LayeredOptions:
    """The default's colours, chromatin, cytoplasm and distractors, over textures of 0.25 µm a pixel.

    Attributes
    ----------
    distractors : float
        Multiplies the probability of each kind of unlabelled structure.
    """

    distractors: float = 1.0
    needs_texture: ClassVar[bool] = True
    needs_layout: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.distractors < math.inf:
            raise ValueError(f"distractors {self.distractors}: expected 0 or more")

    def build(self, mpp: float) -> Renderer:
        require_mpp("the renderer layered", mpp, MPP)
        return self._render

    def suits(self, field: Field) -> bool:
        return True

    def _render(self, rng: np.random.Generator, layout: Layout | None, side: int, texture: Texture | None) -> Patch:
        assert layout is not None
        assert texture is not None
        labels, dissected = layout.instances, _dissect_once(texture.field)
        density = np.ascontiguousarray(texture.under(dissected.background, side))
        arrangement = _arranged(rng, labels)
        placed = np.arange(len(arrangement.shapes))
        colours, groups = group_colours(rng, dissected, arrangement, placed)
        add_distractors(rng, density, dissected, arrangement, self.distractors)
        add_bodies(rng, density, arrangement, placed, colours)
        _paint(rng, density, labels, arrangement.shapes, colours, groups)
        density = optics(rng, density) * np.exp(rng.normal(0.0, [0.10, 0.07, 0.10])).astype(np.float32)
        noise = rng.normal(0.0, rng.uniform(0.0, 0.02), density.shape).astype(np.float32)
        return Patch(jpeg(to_rgb(density + noise), int(rng.integers(40, 96))), labels)


def ellipses_of(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """The ellipse with the moments of each label 1 … n, as rows of :mod:`wsiseg.synth.shapes`."""
    shapes = np.zeros((int(labels.max(initial=0)), SHAPE_FIELDS))
    for n, box in enumerate(ndimage.find_objects(labels)):
        y, x = np.nonzero(labels[box] == n + 1)
        covariance = np.cov(np.stack([x, y]), bias=True) + np.eye(2) / 12.0  # a pixel's own extent
        values, vectors = np.linalg.eigh(covariance)
        major, minor = 2.0 * np.sqrt(values[::-1])
        centre = x.mean() + box[1].start + 0.5, y.mean() + box[0].start + 0.5
        shapes[n, :6] = *centre, major, minor, *vectors[:, 1]
    return shapes


def signed_distance(inside: npt.NDArray[np.bool_]) -> Float32:
    """Pixels from each pixel's centre to the border of ``inside`` (h, w), positive within; its edge is none."""
    within, beyond = ndimage.distance_transform_edt(inside), ndimage.distance_transform_edt(~inside)
    return np.where(inside, within - 0.5, 0.5 - beyond).astype(np.float32)


@lru_cache(maxsize=256)
def _dissect_once(field: Field) -> Dissected:
    return dissect(field.image)


def _arranged(rng: np.random.Generator, labels: npt.NDArray[np.int32]) -> Arrangement:
    """What the default's paint wants to know: an ellipse for each nucleus, and groups, here of neighbours."""
    shapes = ellipses_of(labels)
    centres = rng.uniform(0, len(labels), (int(rng.integers(1, _GROUPS)), 2))
    groups = np.hypot(*(shapes[:, None, :2] - centres).transpose(2, 0, 1)).argmin(axis=1)
    return Arrangement(shapes, np.zeros(len(shapes), dtype=np.int64), groups.astype(np.int64), [])


def _paint(
    rng: np.random.Generator,
    density: Float32,
    labels: npt.NDArray[np.int32],
    shapes: npt.NDArray[np.float64],
    colours: Float32,
    groups: npt.NDArray[np.int64],
) -> None:
    noise, local = noise_fields(), density.mean(axis=(0, 1))
    looks = sample_group_looks(rng, _GROUPS)
    areas = np.bincount(labels.ravel())[1:] * MPP**2
    vesicular = np.interp(areas, _PALE_UM2, _PALE)
    for n, box in enumerate(ndimage.find_objects(labels)):
        look, nucleoli, clear = sample_look(rng, looks, int(groups[n]), float(vesicular[n]), colours[n], local)
        pad = math.ceil(float(look[1])) + 1
        rows, columns = (slice(max(part.start - pad, 0), part.stop + pad) for part in box)
        distance = signed_distance(labels[rows, columns] == n + 1)
        paint_region(
            density, distance, (rows.start, columns.start), shapes[n], colours[n], clear, look, nucleoli, noise
        )
