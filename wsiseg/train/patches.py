"""Pools of training patches at 0.5 mpp, rendered in parallel and kept as arrays in one file."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsiseg.synth.render import RenderOptions, halve, render_patch
from wsiseg.synth.textures import Texture

UNKNOWN, KNOWN, OUTSIDE = 0, 1, 2


@dataclass(frozen=True)
class PatchPool:
    """N patches of one size.

    Attributes
    ----------
    images : uint8 array (N, h, w, 3)
    labels : int16 array (N, h, w)
        Instances, 0 is background.
    covered : uint8 array (N, h, w)
        Foreground fraction of each pixel times 255; the target of the foreground.
    known : uint8 array (N, h, w)
        ``KNOWN`` where the foreground target is meant, ``UNKNOWN`` where it says nothing (uncertain pseudo-labels),
        ``OUTSIDE`` beyond the image that the patch was taken from: nuclei that touch it are cut.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int16]
    covered: npt.NDArray[np.uint8]
    known: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    def save(self, path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, images=self.images, labels=self.labels, covered=self.covered, known=self.known)

    @classmethod
    def load(cls, path: Path) -> PatchPool:
        with np.load(path) as data:
            return cls(data["images"], data["labels"], data["covered"], data["known"])

    @classmethod
    def join(cls, pools: Sequence[PatchPool]) -> PatchPool:
        names = ("images", "labels", "covered", "known")
        return cls(*(np.concatenate([getattr(pool, name) for pool in pools]) for name in names))


def render_pool(
    textures: Sequence[Texture], count: int, seed: int, options: RenderOptions, workers: int = 2
) -> PatchPool:
    """Patches 0 … ``count`` - 1 of ``seed``, halved to 0.5 mpp; the same for any number of workers."""
    chunks = [range(i, min(i + 16, count)) for i in range(0, count, 16)]
    if workers <= 1:
        parts = [_render_chunk(textures, seed, options, chunk) for chunk in chunks]
    else:
        with ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_keep, initargs=(list(textures),)
        ) as executor:
            futures = [executor.submit(_render_kept, seed, options, chunk) for chunk in chunks]
            parts = [future.result() for future in futures]
    return PatchPool.join(parts)


_kept: list[Texture] = []


def _keep(textures: list[Texture]) -> None:
    _kept[:] = textures


def _render_kept(seed: int, options: RenderOptions, chunk: range) -> PatchPool:
    return _render_chunk(_kept, seed, options, chunk)


def _render_chunk(textures: Sequence[Texture], seed: int, options: RenderOptions, chunk: range) -> PatchPool:
    images, labels, covered = [], [], []
    for index in chunk:
        image, label, fraction = halve(render_patch(textures, seed, index, options))
        images.append(image)
        labels.append(label.astype(np.int16))
        covered.append(np.rint(fraction * 255).astype(np.uint8))
    return PatchPool(np.stack(images), np.stack(labels), np.stack(covered), np.ones_like(np.stack(covered)))
