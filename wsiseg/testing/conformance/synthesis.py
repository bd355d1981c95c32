"""What every sampler and every renderer must pass (:mod:`wsiseg.synth.parts`).

Each check takes a :class:`Case`. A part conforms when each check of :data:`SAMPLER_CHECKS`, or of
:data:`RENDERER_CHECKS`, returns for it.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsiseg.core.raster import largest_components
from wsiseg.synth.parts import Layout, Patch, RendererOptions, SamplerOptions, Texture

_SEEDS = range(3)


@dataclass(frozen=True)
class Case:
    """A part and what it works on.

    Attributes
    ----------
    sampler : SamplerOptions or None
        The one that is checked, or the one whose layouts the renderer gets; None where it takes none.
    renderer : RendererOptions or None
    texture : Texture or None
    side : int
    mpp : float
    """

    sampler: SamplerOptions | None
    renderer: RendererOptions | None
    texture: Texture | None
    side: int = 96
    mpp: float = 0.25

    def layout(self, seed: int) -> Layout | None:
        if self.sampler is None:
            return None
        return self.sampler.build(self.mpp)(np.random.default_rng([seed, 1]), self.side, self.texture)

    def patch(self, seed: int) -> Patch:
        assert self.renderer is not None
        renderer = self.renderer.build(self.mpp)
        return renderer(np.random.default_rng([seed, 2]), self.layout(seed), self.side, self.texture)


def check_labels(labels: npt.NDArray[np.int32], side: int) -> None:
    """int32 (side, side), 0 background, 1 … n, each 4-connected."""
    assert labels.dtype == np.int32
    assert labels.shape == (side, side)
    found = np.unique(labels)
    assert found[0] >= 0
    np.testing.assert_array_equal(found[found > 0], np.arange(1, labels.max() + 1))
    np.testing.assert_array_equal(largest_components(labels), labels)


def check_options(case: Case) -> None:
    """Options are values: they can be compared, hashed and sent to another process."""
    for options in (case.sampler, case.renderer):
        if options is not None:
            assert pickle.loads(pickle.dumps(options)) == options
            assert hash(options) == hash(pickle.loads(pickle.dumps(options)))


def check_layouts(case: Case) -> None:
    """Layouts have nuclei, and labels as they should be."""
    layouts = [case.layout(seed) for seed in _SEEDS]
    for layout in layouts:
        assert layout is not None
        check_labels(layout.instances, case.side)
    assert any(layout is not None and layout.instances.any() for layout in layouts), "there is not one nucleus"


def check_same_layouts(case: Case) -> None:
    """The same seed gives the same bytes, from parts built anew and in another order; another seed others."""
    forth = [case.layout(seed) for seed in _SEEDS]
    back = [case.layout(seed) for seed in reversed(_SEEDS)][::-1]
    for one, other in zip(forth, back, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.instances, other.instances)
    assert len({layout.instances.tobytes() for layout in forth if layout is not None}) > 1


def check_patches(case: Case) -> None:
    """Image and labels of one shape; the labels are those of the layout, where there is one."""
    patch, layout = case.patch(0), case.layout(0)
    assert patch.image.dtype == np.uint8
    assert patch.image.shape == (case.side, case.side, 3)
    check_labels(patch.instances, case.side)
    if layout is not None:
        np.testing.assert_array_equal(patch.instances, layout.instances)


def check_same_patches(case: Case) -> None:
    """The same seed gives the same bytes, from parts built anew, on any number of threads, and changes no input."""
    import torch

    before = case.texture.field.image.copy() if case.texture is not None else None
    first, threads = case.patch(1), torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        np.testing.assert_array_equal(case.patch(1).image, first.image)
    finally:
        torch.set_num_threads(threads)
    assert not np.array_equal(case.patch(2).image, first.image)
    if case.texture is not None:
        np.testing.assert_array_equal(case.texture.field.image, before)


def check_nuclei_show(case: Case) -> None:
    """Pixels of nuclei differ from those around them: labels belong to what is seen."""
    patches = [case.patch(seed) for seed in _SEEDS]
    inside = np.concatenate([patch.image[patch.instances > 0] for patch in patches]).astype(float)
    outside = np.concatenate([patch.image[patch.instances == 0] for patch in patches]).astype(float)
    assert len(inside), "there is not one nucleus"
    assert np.abs(inside.mean(axis=0) - outside.mean(axis=0)).max() > 5


SAMPLER_CHECKS = (check_options, check_layouts, check_same_layouts)
RENDERER_CHECKS = (check_options, check_patches, check_same_patches, check_nuclei_show)
