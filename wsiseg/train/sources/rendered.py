"""``kind = "rendered"``: patches of :mod:`wsiseg.synth.render`, drawn over the textures of a folder."""

from __future__ import annotations

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

from wsiseg.errors import ModelError
from wsiseg.synth.render import MPP, REVISION, RenderOptions, render_patch
from wsiseg.synth.textures import Texture, dissect
from wsiseg.train.patches import PatchPool
from wsiseg.train.source import Frame
from wsiseg.train.sources import cut, files
from wsiseg.train.sources.files import Part

if TYPE_CHECKING:
    from wsiseg.models.network import NetworkSegmenter

_CHUNK = 16


@dataclass(frozen=True)
class RenderedSource:
    """Patches ``start`` … ``start`` + ``count`` - 1 of a seed's endless sequence.

    Attributes
    ----------
    data : Path
        Folder of textures: unlabelled H&E images at 0.25 µm a pixel.
    count, start, seed : int
    size : int
        Side of a patch in pixels of 0.25 µm; even. The textures' own suits: beyond it they are mirrored.
    part, every : str, int
        Which textures: ``training``, ``validation`` (every ``every``-th) or ``all``.
    stain_transfer, distractors : float
        See :class:`wsiseg.synth.render.RenderOptions`.
    network : str
        A model's name or weight file, which says where textures have nuclei of their own; these are filled in.
        Empty: what is dark.
    threshold : float
        Foreground probability above which ``network`` means a nucleus.
    licence : str
        Of the textures, for the model card.
    """

    data: Path
    count: int = 1600
    start: int = 0
    seed: int = 1
    size: int = 400
    part: Part = "all"
    every: int = 11
    stain_transfer: float = 0.5
    distractors: float = 1.0
    network: str = ""
    threshold: float = 0.1
    licence: str = "unknown"

    def __post_init__(self) -> None:
        files.check_selection(self.every)
        if self.count < 1 or self.start < 0 or self.seed < 0:
            raise ValueError(
                f"count {self.count}, start {self.start}, seed {self.seed}: expected at least 1, 0 and 0"
            )
        if self.size < 64 or self.size % 2:
            raise ValueError(f"size {self.size}: expected an even number of pixels, at least 64")
        if not 0 <= self.stain_transfer <= 1 or not 0 <= self.threshold <= 1 or self.distractors < 0:
            raise ValueError(
                f"stain_transfer {self.stain_transfer}, threshold {self.threshold}, distractors "
                f"{self.distractors}: expected 0 to 1, 0 to 1, and at least 0"
            )

    def describe(self, frame: Frame) -> dict[str, Any]:
        return {
            "kind": "rendered",
            "revision": [cut.REVISION, REVISION],
            "content": files.digest_files((name, [path]) for name, path in self._files().items()),
            "patches": [self.seed, self.start, self.count],
            "options": asdict(self._options()),
            "network": [_network(self.network).weights_sha256, self.threshold] if self.network else None,
            "patch": {"mpp": frame.mpp},
        }

    def statements(self) -> tuple[str, ...]:
        textures = len(self._files())
        return (
            f"{self.count} patches rendered by wsiseg (revision {REVISION}, seed {self.seed}, from {self.start}) "
            f"on {textures} textures of {self.data.name}, licence: {self.licence}",
        )

    def parts(self, frame: Frame, first: int) -> Iterator[PatchPool]:
        textures = self._textures()
        last = self.start + self.count
        chunks = [range(n, min(n + _CHUNK, last)) for n in range(self.start + first, last, _CHUNK)]
        work = partial(_render, seed=self.seed, options=self._options(), mpp=frame.mpp)
        if frame.workers <= 1 or len(chunks) <= 1:
            yield from (work(textures, chunk) for chunk in chunks)
            return
        with ProcessPoolExecutor(
            frame.workers, mp_context=get_context("spawn"), initializer=_keep, initargs=(textures,)
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
        return RenderOptions(self.size, self.stain_transfer, self.distractors)

    def _files(self) -> dict[str, Path]:
        found = files.find_files(self.data, files.IMAGE_SUFFIXES)
        kept = files.select(list(found), self.data, self.part, self.every)
        return {name: found[name] for name in kept}

    def _textures(self) -> list[Texture]:
        images = [files.read_image(path) for path in self._files().values()]
        if not self.network:
            return [dissect(image) for image in images]
        segmenter = _network(self.network)
        return [dissect(image, nuclear_mask(segmenter, image, self.threshold)) for image in images]


def nuclear_mask(
    segmenter: NetworkSegmenter, image: npt.NDArray[np.uint8], threshold: float
) -> npt.NDArray[np.bool_]:
    """Pixels (h, w) of an image at 0.25 mpp that ``segmenter`` takes for nuclear, with more than ``threshold``."""
    from wsiseg.train.pseudo import probable_nuclei

    factor = MPP / segmenter.mpp
    empty = np.zeros(image.shape[:2], dtype=np.int32)
    small = cut.rescale(image, empty, factor).image
    mask = probable_nuclei(segmenter, small, threshold).astype(np.uint8)
    return cut.nearest(mask, (image.shape[0], image.shape[1])) > 0


def _network(name: str) -> NetworkSegmenter:
    """On the CPU in full precision, so that the same pixels are nuclear on every machine."""
    from wsiseg.models.network import NetworkSegmenter
    from wsiseg.models.registry import load_segmenter

    segmenter = load_segmenter(name, device="cpu", precision="fp32")
    if not isinstance(segmenter, NetworkSegmenter):
        raise ModelError(f"{name}: is no network; expected one that says where nuclei may be")
    segmenter.flips = True
    return segmenter


def _render(
    textures: Sequence[Texture], chunk: range, *, seed: int, options: RenderOptions, mpp: float
) -> PatchPool:
    made = []
    for index in chunk:
        drawn = render_patch(textures, seed, index, options)
        source = cut.rescale(drawn.image, drawn.labels, MPP / mpp)
        made.append(cut.patch(source, 0, 0, (source.labels.shape[0], source.labels.shape[1])))
    return PatchPool.join(made)


_kept: list[Texture] = []


def _keep(textures: list[Texture]) -> None:
    _kept[:] = textures


def _with_kept(work: partial[PatchPool], chunk: range) -> PatchPool:
    return work(_kept, chunk)
