"""``kind = "rendered"``: patches of :mod:`wsiseg.synth.render`, drawn over the textures of a folder."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize
from wsiseg.core.select import ALL, Select
from wsiseg.synth import scenes
from wsiseg.synth.grafts import Graft, cut_grafts
from wsiseg.synth.render import MPP, REVISION, RenderOptions, render_patch
from wsiseg.synth.scenes import NO_SCENES, Scenes
from wsiseg.synth.textures import Texture, dissect, optical_density
from wsiseg.train.patches import PatchPool
from wsiseg.train.source import Frame
from wsiseg.train.sources import cut, files
from wsiseg.train.sources.teacher import load_teacher

if TYPE_CHECKING:
    from wsiseg.models.network import NetworkSegmenter

_CHUNK = 16


@dataclass(frozen=True)
class RenderedSource:
    """Patches ``start`` … ``start`` + ``count`` - 1 of a seed's endless sequence.

    Attributes
    ----------
    data : Path
        Folder of textures: unlabelled H&E images, in it or in its folders.
    count, start, seed : int
    size : int
        Side of a patch in pixels of 0.25 µm; even. The textures' own suits: beyond it they are mirrored.
    mpp : float
        Microns per pixel of the textures.
    piece : int
        Side in pixels of 0.25 µm of what is taken of a larger texture, where it has most tissue; 0: all of it.
    select : Select
        Which textures, in the order of their names.
    stain_transfer, distractors : float
        See :class:`wsiseg.synth.render.RenderOptions`.
    network : Path or None
        A model's name or weight file, which says where textures have nuclei of their own; these are filled in.
        None: what is dark.
    threshold : float
        Foreground probability above which ``network`` means a nucleus.
    dark_too : bool
        Fill in what is dark as well: a network that misses nuclei would have them taught as background.
    grafts, sure : float
        Share of the patches that get real nuclei of the textures as well, and the least score at which ``network``
        is sure of one; without a network there are none.
    scenes : Scenes
        Share of the patches with each of the further scenes of :mod:`wsiseg.synth.scenes`.
    licence : str
        Of the textures, for the model card.
    """

    data: Path
    count: int = 1600
    start: int = 0
    seed: int = 1
    size: int = 400
    mpp: float = MPP
    piece: int = 0
    select: Select = ALL
    stain_transfer: float = 0.5
    distractors: float = 1.0
    network: Path | None = None
    threshold: float = 0.1
    dark_too: bool = False
    grafts: float = 0.6
    sure: float = 0.8
    scenes: Scenes = NO_SCENES
    licence: str = "unknown"

    def __post_init__(self) -> None:
        if self.count < 1 or self.start < 0 or self.seed < 0:
            raise ValueError(
                f"count {self.count}, start {self.start}, seed {self.seed}: expected at least 1, 0 and 0"
            )
        if self.size < 64 or self.size % 2:
            raise ValueError(f"size {self.size}: expected an even number of pixels, at least 64")
        if not 0.01 <= self.mpp <= 100:
            raise ValueError(f"mpp {self.mpp}: expected microns, from 0.01 to 100")
        if self.piece and self.piece < 64:
            raise ValueError(f"piece {self.piece}: expected at least 64 pixels, or 0 for whole textures")
        for name in ("stain_transfer", "threshold", "grafts", "sure"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected 0 to 1")
        if not 0 <= self.distractors < math.inf:
            raise ValueError(f"distractors {self.distractors}: expected 0 or more")

    def describe(self, frame: Frame) -> dict[str, Any]:
        return {
            "kind": "rendered",
            "revision": [cut.REVISION, REVISION, *([scenes.REVISION] if self.scenes != NO_SCENES else [])],
            "content": files.digest_files((name, [path]) for name, path in self._files().items()),
            "patches": [self.seed, self.start, self.count],
            "options": asdict(self._options()),
            "network": self._network_says(),
            "textures": [self.mpp, self.piece],
            "patch": {"mpp": frame.mpp},
        }

    def statements(self) -> tuple[str, ...]:
        textures = len(self._files())
        return (
            f"{self.count} patches rendered by wsiseg (revision {REVISION}, seed {self.seed}, from {self.start}) "
            f"on {textures} textures of {self.data.name}, licence: {self.licence}",
        )

    def parts(self, frame: Frame, first: int) -> Iterator[PatchPool]:
        textures, grafts = self._textures()
        last = self.start + self.count
        chunks = [range(n, min(n + _CHUNK, last)) for n in range(self.start + first, last, _CHUNK)]
        work = partial(_render, seed=self.seed, options=self._options(), mpp=frame.mpp)
        if frame.workers <= 1 or len(chunks) <= 1:
            yield from (work(textures, grafts, chunk) for chunk in chunks)
            return
        with ProcessPoolExecutor(
            frame.workers, mp_context=get_context("spawn"), initializer=_keep, initargs=(textures, grafts)
        ) as executor:
            ahead: deque[Future[PatchPool]] = deque()
            try:
                for chunk in chunks:
                    ahead.append(executor.submit(_with_kept, work, chunk))
                    if len(ahead) > 2 * frame.workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                executor.shutdown(wait=False, cancel_futures=True)

    def _options(self) -> RenderOptions:
        return RenderOptions(self.size, self.stain_transfer, self.distractors, self.grafts, self.scenes)

    def _network_says(self) -> list[object] | None:
        return (
            [load_teacher(self.network).weights_sha256, self.threshold, self.sure, self.dark_too]
            if self.network
            else None
        )

    def _files(self) -> dict[str, Path]:
        return self.select.named(files.find_images(self.data), self.data)

    def _read(self, path: Path) -> npt.NDArray[np.uint8]:
        image = files.read_image(path)
        if self.mpp != MPP:
            image = cut.rescale(image, np.zeros(image.shape[:2], dtype=np.int32), self.mpp / MPP).image
        return richest_piece(image, self.piece) if self.piece else image

    def _textures(self) -> tuple[list[Texture], list[Graft]]:
        images = [self._read(path) for path in self._files().values()]
        if not self.network:
            return [dissect(image) for image in images], []
        segmenter = load_teacher(self.network)
        textures, grafts = [], []
        for image in images:
            mask, labels = nuclear_pixels(segmenter, image, self.threshold, self.sure)
            textures.append(dissect(image, mask, dark_too=self.dark_too))
            if self.grafts > 0:
                grafts += cut_grafts(optical_density(image), labels)
        return textures, grafts


def richest_piece(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """The square of ``side`` of an image (h, w, 3) that absorbs most on the whole; what is smaller stays as it is.

    Of squares half a side apart, with no pixel counted for more than tissue of medium depth, so that a speck of ink
    does not decide.
    """
    height, width = image.shape[:2]
    if height <= side and width <= side:
        return image
    depth = np.minimum(optical_density(image).mean(axis=2), 0.3)
    starts = [sorted({*range(0, max(n - side, 0) + 1, side // 2), max(n - side, 0)}) for n in (height, width)]
    places = [(i, j) for i in starts[0] for j in starts[1]]
    i, j = max(places, key=lambda place: float(depth[place[0] :, place[1] :][:side, :side].mean()))
    return np.ascontiguousarray(image[i : i + side, j : j + side])


def nuclear_pixels(
    segmenter: NetworkSegmenter, image: npt.NDArray[np.uint8], threshold: float, sure: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int32]]:
    """What ``segmenter`` sees in an image (h, w, 3) at 0.25 mpp.

    Returns
    -------
    mask : bool array (h, w)
        Pixels that are nuclear with more than ``threshold``.
    labels : int32 array (h, w)
        Nuclei with a score of at least ``sure``, 1 … n.
    """
    from wsiseg.train.labelling import foreground_of, mirrored_maps

    factor = MPP / segmenter.mpp
    shape = (image.shape[0], image.shape[1])
    small = cut.rescale(image, np.zeros(shape, dtype=np.int32), factor).image
    maps = mirrored_maps(segmenter, small)
    mask = (foreground_of(maps, segmenter.head) > threshold).astype(np.uint8)
    nuclei = segmenter.head.decode(maps, segmenter.decoder, {})
    nuclei = nuclei.take(nuclei.columns["score"].astype(np.float64) >= sure)
    large = Nuclei(nuclei.vertices / factor, nuclei.offsets, nuclei.columns)
    return cut.nearest(mask, shape) > 0, rasterize(large, np.arange(1, len(large) + 1), shape)


def _render(
    textures: Sequence[Texture],
    grafts: Sequence[Graft],
    chunk: range,
    *,
    seed: int,
    options: RenderOptions,
    mpp: float,
) -> PatchPool:
    made = []
    for index in chunk:
        drawn = render_patch(textures, seed, index, options, grafts)
        source = cut.rescale(drawn.image, drawn.labels, MPP / mpp)
        made.append(cut.patch(source, 0, 0, (source.labels.shape[0], source.labels.shape[1])))
    return PatchPool.join(made)


_kept: tuple[list[Texture], list[Graft]] = ([], [])


def _keep(textures: list[Texture], grafts: list[Graft]) -> None:
    _kept[0][:], _kept[1][:] = textures, grafts


def _with_kept(work: partial[PatchPool], chunk: range) -> PatchPool:
    return work(*_kept, chunk)
