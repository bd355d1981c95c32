"""Rendered patches: texture, layout and paint put together, deterministic in (seed, index)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from wsiseg.synth.distractors import add_distractors
from wsiseg.synth.grafts import Graft, set_grafts
from wsiseg.synth.layout import Layout, sample_density, sample_layout
from wsiseg.synth.paint import (
    LOOK_FIELDS,
    MAX_NUCLEOLI,
    NOISE_SIZE,
    NUCLEOLUS_FIELDS,
    blend,
    noise_fields,
    paint_nucleus,
    paint_random_body,
)
from wsiseg.synth.scenes import NO_SCENES, Scenes, choose_scenes, defocused, set_scenes
from wsiseg.synth.shapes import ALL_KINDS, MPP, Float32, Int32, place_shapes
from wsiseg.synth.textures import Texture, to_rgb

REVISION = 2
"""Counts up whenever the same seed begins to give other patches."""


@dataclass(frozen=True)
class RenderOptions:
    """What a patch is rendered with.

    Attributes
    ----------
    size : int
        Side in pixels of 0.25 µm; even.
    stain_transfer : float
        Probability that the patch takes the stain statistics of another texture (Reinhard et al. 2001,
        doi:10.1109/38.946629, here in optical density).
    distractors : float
        Multiplies the probability of each kind of unlabelled structure.
    grafts : float
        Probability that a patch gets real nuclei among the drawn ones, where there are any to be set.
    scenes : Scenes
        Share of the patches that each of the further scenes is in. A patch with none of them does not depend on it.
    """

    size: int = 416
    stain_transfer: float = 0.5
    distractors: float = 1.0
    grafts: float = 0.6
    scenes: Scenes = NO_SCENES


@dataclass(frozen=True)
class Patch:
    """``image`` uint8 (H, W, 3) and ``labels`` int32 (H, W) at 0.25 µm a pixel, labels 1 … n.

    The first ``of_scenes`` labels are nuclei of the patch's scenes.
    """

    image: npt.NDArray[np.uint8]
    labels: Int32
    of_scenes: int = 0


def render_patch(
    textures: Sequence[Texture],
    seed: int,
    index: int,
    options: RenderOptions = RenderOptions(),
    grafts: Sequence[Graft] = (),
) -> Patch:
    """Render patch ``index`` of the endless sequence that ``seed`` names, with ``grafts`` to be set into it.

    Raises
    ------
    ValueError
        Without textures.
    """
    if not textures:
        raise ValueError("no textures: rendering needs at least one")
    rng = np.random.default_rng([seed, index])
    texture = textures[int(rng.integers(len(textures)))]
    size = options.size
    of_scenes = np.random.default_rng([seed, index, 1])  # patches without scenes are the same whatever the shares
    names, blurred = choose_scenes(of_scenes, options.scenes)
    density = _background(rng, texture, size)
    layout = sample_layout(rng, size, MPP)
    if rng.random() < 0.03:  # tissue without nuclei exists too
        layout = Layout(layout.shapes[:1], layout.kinds[:1], layout.group[:1], [])
    ordinary = int(layout.group.max()) + 1
    if names:  # they cover what lies below
        add_distractors(rng, density, texture, layout, options.distractors)
        layout = set_scenes(of_scenes, density, texture, layout, names, MPP)
    labels = np.zeros((size, size), dtype=np.int32)
    overlap, limit = sample_density(rng, len(layout.shapes))
    overlap[layout.group >= ordinary] += 0.10  # crowds touch
    limit += int((layout.group >= ordinary).sum())  # a scene's nuclei come first, and all of them
    placed = place_shapes(labels, layout.shapes, overlap, limit)
    colours, groups = group_colours(rng, texture, layout, placed)
    if names:
        colours = _strengthened(of_scenes, colours, layout.kinds[placed])
    else:
        add_distractors(rng, density, texture, layout, options.distractors)
    add_bodies(rng, density, layout, placed[groups < ordinary], colours[groups < ordinary])
    _nuclei(rng, density, layout, placed, colours, groups)
    density = optics(rng, density)
    if blurred:
        density = defocused(of_scenes, density, MPP)
    if grafts and rng.random() < options.grafts:
        colour = texture.nuclear_mean[int(rng.integers(len(texture.nuclear_mean)))]
        set_grafts(rng, density, labels, grafts, int(rng.integers(3, 50)), colour)
    if rng.random() < options.stain_transfer:
        other = textures[int(rng.integers(len(textures)))]
        density = rehue(rng, density, other) if names else restain(rng, density, other)
    density = density * np.exp(rng.normal(0.0, [0.10, 0.07, 0.10])).astype(np.float32)
    image = to_rgb(density + rng.normal(0.0, rng.uniform(0.0, 0.02), density.shape).astype(np.float32))
    own = int((layout.group[placed] >= ordinary).sum())
    return Patch(jpeg(image, int(rng.integers(40, 96))), labels, own)


def halve(patch: Patch) -> tuple[npt.NDArray[np.uint8], Int32, Float32]:
    """The patch at 0.5 mpp: image by 2 × 2 means, labels by majority, and the covered fraction of each pixel."""
    image, labels = patch.image, patch.labels
    h, w = labels.shape[0] // 2, labels.shape[1] // 2
    small = image.reshape(h, 2, w, 2, 3).mean(axis=(1, 3))
    four = np.sort(labels.reshape(h, 2, w, 2).transpose(0, 2, 1, 3).reshape(h, w, 4), axis=2)
    # Sorted, zeros come first: two equal neighbours among the upper three are a majority, else the top one.
    half = np.where((four[..., 1] == four[..., 2]) & (four[..., 1] > 0), four[..., 1], four[..., 3])
    covered = (four > 0).mean(axis=2).astype(np.float32)
    half = np.where(covered >= 0.5, half, 0).astype(np.int32)
    return np.rint(small).astype(np.uint8), half, covered


def _background(rng: np.random.Generator, texture: Texture, size: int) -> Float32:
    """The texture's background, turned, mirrored, enlarged; two textures' regions may meet."""
    source = texture.background
    angle, zoom = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1.3)
    flip = 1 if rng.random() < 0.5 else -1
    c, s = math.cos(angle) / zoom, math.sin(angle) / zoom
    matrix = np.array([[c, -s * flip], [s, c * flip]])
    centre = rng.uniform(0.3, 0.7, 2) * source.shape[:2]
    offset = centre - matrix @ np.array([size / 2, size / 2])
    return np.stack(
        [
            ndimage.affine_transform(
                source[..., k], matrix, offset=offset, output_shape=(size, size), order=1, mode="mirror"
            )
            for k in range(3)
        ],
        axis=2,
    ).astype(np.float32)


def group_colours(
    rng: np.random.Generator, texture: Texture, layout: Layout, placed: npt.NDArray[np.int64]
) -> tuple[Float32, npt.NDArray[np.int64]]:
    """Mean optical density of each placed nucleus: a real nucleus' colour, shared in part by its group."""
    groups = layout.group[placed]
    means = texture.nuclear_mean
    count = int(layout.group.max(initial=0)) + 1
    per_group = means[rng.integers(len(means), size=count)]
    own = means[rng.integers(len(means), size=len(placed))]
    strength = np.exp(rng.normal(0.0, 0.16, (count, 1)))
    mix = rng.uniform(0.3, 0.9)
    colours = mix * per_group[groups] * strength[groups] + (1 - mix) * own
    colours = colours * np.exp(rng.normal(0.0, 0.10, (len(placed), 1)) + rng.normal(0.0, 0.03, (len(placed), 3)))
    return np.maximum(colours, 0.05).astype(np.float32), groups


def add_bodies(
    rng: np.random.Generator, density: Float32, layout: Layout, placed: npt.NDArray[np.int64], colours: Float32
) -> None:
    """Cytoplasm or a clear halo around the nuclei of some groups."""
    local = density.mean(axis=(0, 1))
    for group in np.unique(layout.group[placed]):
        style = rng.choice(["none", "basophilic", "eosin", "clear"], p=[0.45, 0.25, 0.15, 0.15])
        if style == "none":
            continue
        grow, opacity, share = rng.uniform(1.25, 2.3), rng.uniform(0.3, 0.85), rng.uniform(0.2, 0.7)
        for n in np.flatnonzero(layout.group[placed] == group):
            shape = layout.shapes[placed[n]].copy()
            shape[2:4] = shape[2:4] * grow * rng.uniform(0.85, 1.15) + 2.0
            shape[:2] += rng.normal(0, 0.2 * shape[3], 2)
            if style == "basophilic":
                colour = blend(local, colours[n], share)
            elif style == "eosin":
                colour = local * np.array([0.9, 1.3, 1.15])
            else:
                colour = local * 0.35
            paint_random_body(rng, density, shape, colour.astype(np.float32), opacity, 0.1)


def _nuclei(
    rng: np.random.Generator,
    density: Float32,
    layout: Layout,
    placed: npt.NDArray[np.int64],
    colours: Float32,
    groups: npt.NDArray[np.int64],
) -> None:
    noise, local = noise_fields(), density.mean(axis=(0, 1))
    looks = sample_group_looks(rng, int(groups.max()) + 1 if len(groups) else 1)
    for n in range(len(placed) - 1, -1, -1):  # the first to be placed lies on top, as its label does
        vesicular = ALL_KINDS[layout.kinds[placed[n]]].vesicular
        look, nucleoli, clear = sample_look(rng, looks, int(groups[n]), vesicular, colours[n], local)
        paint_nucleus(density, layout.shapes[placed[n]], colours[n], clear, look, nucleoli, noise)


@dataclass(frozen=True)
class GroupLooks:
    """What nuclei of a group share: arrays (groups,), and how soft the borders of a patch are, in pixels."""

    softness: float
    chromatin: npt.NDArray[np.float64]
    pale: npt.NDArray[np.bool_]
    emptiness: npt.NDArray[np.float64]
    window: npt.NDArray[np.bool_]


def sample_group_looks(rng: np.random.Generator, groups: int) -> GroupLooks:
    """The looks of ``groups`` groups of a patch."""
    softness = rng.uniform(1.2, 4.0)
    chromatin = np.abs(rng.normal(0.10, 0.07, groups))
    pale = rng.random(groups) < 0.45
    emptiness = rng.uniform(0.3, 1.0, groups)
    return GroupLooks(softness, chromatin, pale, emptiness, rng.random(groups) < 0.3)


def sample_look(
    rng: np.random.Generator, looks: GroupLooks, group: int, vesicular: float, colour: Float32, local: Float32
) -> tuple[Float32, Float32, Float32]:
    """The look of one nucleus of a group.

    Parameters
    ----------
    vesicular : float
        Its kind's probability of being pale.
    colour, local : float32 array (3,)
        Mean optical density of the nucleus, and of what is around.

    Returns
    -------
    look, nucleoli, clear
        As :func:`wsiseg.synth.paint.paint_nucleus` takes them.
    """
    look = np.zeros(LOOK_FIELDS, dtype=np.float32)
    defocused = rng.random() < 0.10
    look[0] = rng.uniform(0.4, 0.85) if defocused else rng.uniform(0.8, 1.0)
    look[1] = looks.softness * rng.uniform(0.7, 1.4) * (2.2 if defocused else 1.0)
    look[2] = looks.chromatin[group] * rng.uniform(0.5, 1.5)
    look[5] = rng.uniform(1.0, 2.8)
    look[6] = rng.uniform(0.1, 0.7)
    look[7:9] = rng.integers(0, NOISE_SIZE, 2)
    nucleoli = np.zeros((MAX_NUCLEOLI, NUCLEOLUS_FIELDS), dtype=np.float32)
    pale = rng.random() < (vesicular * 2.2 if looks.pale[group] else vesicular * 0.4)
    if pale:
        look[2] = look[2] + rng.uniform(0.0, 0.12)
        look[6] = rng.uniform(0.0, 0.35)
        look[3] = looks.emptiness[group] * rng.uniform(0.7, 1.0)
        look[4] = rng.uniform(0.0, 0.5)
    elif rng.random() < 0.3:
        look[4] = rng.uniform(0.0, 0.25)
    if rng.random() < (0.7 if pale else 0.15):
        count = int(rng.integers(1, MAX_NUCLEOLI + 1))
        look[9] = count
        nucleoli[:count, :2] = rng.uniform(-0.55, 0.55, (count, 2))
        nucleoli[:count, 2] = rng.uniform(1.2, 4.5, count)
        nucleoli[:count, 3] = rng.uniform(0.2, 0.8, count)
    if pale and looks.window[group]:  # optically clear: a thin rim around next to nothing
        look[3:6] = rng.uniform(0.75, 1.0), rng.uniform(0.0, 0.6), rng.uniform(0.7, 1.6)
        clear = local * np.float32(rng.uniform(0.05, 0.5))
    else:
        clear = blend(local, colour, rng.uniform(0.0, 0.45)) * np.float32(rng.uniform(0.35, 1.05))
    return look, nucleoli, clear


def optics(rng: np.random.Generator, density: Float32) -> Float32:
    """The blur of the objective and the scanner; now and then out of focus."""
    sigma = rng.uniform(0.4, 1.2) if rng.random() < 0.85 else rng.uniform(1.2, 2.4)
    return ndimage.gaussian_filter(density, (sigma, sigma, 0))


def restain(rng: np.random.Generator, density: Float32, other: Texture) -> Float32:
    """Optical density (H, W, 3) moved toward the mean and spread of ``other``'s, by a random weight."""
    weight = rng.uniform(0.3, 1.0)
    mean, sd = density.mean(axis=(0, 1)), density.std(axis=(0, 1))
    ratio = np.clip(other.sd / np.maximum(sd, 1e-3), 0.6, 1.6)
    moved = (density - mean) * ratio + other.mean
    return np.maximum(density + weight * (moved - density), 0.0).astype(np.float32)


def rehue(rng: np.random.Generator, density: Float32, other: Texture) -> Float32:
    """Optical density (H, W, 3) whose mean hue is moved toward ``other``'s; what is empty stays so.

    :func:`restain` takes a patch that is fat for faint tissue, and stains its glass.
    """
    mean = density.mean(axis=(0, 1))
    ratio = (other.mean / other.mean.mean()) / np.maximum(mean / max(float(mean.mean()), 1e-3), 0.05)
    trust = float(np.clip(other.mean.mean() / 0.2 - 0.5, 0.0, 1.0))  # glass has no hue to give
    gain = np.clip(ratio, 0.65, 1.5) ** (trust * rng.uniform(0.2, 0.9)) * math.exp(rng.normal(0.0, 0.15))
    return (density * gain).astype(np.float32)


def _strengthened(rng: np.random.Generator, colours: Float32, kinds: npt.NDArray[np.int64]) -> Float32:
    """Colours (N, 3) of nuclei, as pale or dark as their kind, which nuclei of one patch share in part."""
    ranges = np.array([kind.strength for kind in ALL_KINDS])[kinds]
    shared = rng.random(len(ALL_KINDS))[kinds]
    share = np.clip(shared + rng.normal(0.0, 0.2, len(kinds)), 0.0, 1.0)
    return (colours * (ranges[:, 0] + share * (ranges[:, 1] - ranges[:, 0]))[:, None]).astype(np.float32)


def jpeg(image: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """``image`` (h, w, 3) after compression, 4:2:0."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
