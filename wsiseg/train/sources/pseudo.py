"""``kind = "pseudo"``: images without labels, labelled by a network: what a teacher hands on to a student.

The teacher sees each patch at its own resolution, which need not be the student's, enlarged by several factors and
mirrored; the mean of these views is better than any of them, and the student learns to see that at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.nuclei import Nuclei
from wsiseg.core.raster import rasterize
from wsiseg.models.heads import Maps
from wsiseg.train.patches import KNOWN, OUTSIDE, PatchPool
from wsiseg.train.source import Frame
from wsiseg.train.sources import cut
from wsiseg.train.sources.images import ImagesSource
from wsiseg.train.sources.teacher import load_teacher

if TYPE_CHECKING:
    from wsiseg.models.network import NetworkSegmenter

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PseudoSource:
    """Patches of images with the labels that a network gives them.

    Attributes
    ----------
    images : ImagesSource
        The patches.
    network : Path
        A model's name or weight file.
    scales : tuple of float
        Enlargements over whose views the network's maps are averaged, each over the four mirror images as well.
    soft : bool
        The foreground's target is the network's probability, everywhere. Otherwise it is inside its sure nuclei;
        unlikely pixels are background, and the others say nothing.
    sure : float
        Least score of a nucleus that has a centre to be learnt.
    unknown : float
        Foreground probability below which a pixel is background, where not ``soft``.
    witness : Path or None
        Another network, which differs from the first. Where their foregrounds differ by more than ``tolerance``
        a pixel says nothing, and a nucleus that only one of them finds has no centre.
    tolerance : float
    doubt : float
        Background that is as dark of haematoxylin as this quantile of the sure nuclei says nothing: there may be
        nuclei of kinds that no teacher has seen. 0 trusts the teacher everywhere.
    """

    images: ImagesSource
    network: Path
    scales: tuple[float, ...] = (0.8, 1.0, 1.25)
    soft: bool = True
    sure: float = 0.7
    unknown: float = 0.1
    witness: Path | None = None
    tolerance: float = 0.3
    doubt: float = 0.0

    def __post_init__(self) -> None:
        if not self.scales or not all(0.25 <= scale <= 4 for scale in self.scales):
            raise ValueError(f"scales {list(self.scales)}: expected enlargements from 0.25 to 4, such as [1.0]")
        shares = {name: getattr(self, name) for name in ("sure", "unknown", "tolerance", "doubt")}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} {share}: expected 0 to 1")

    def describe(self, frame: Frame) -> dict[str, Any]:
        teacher = load_teacher(self.network)
        return {
            "kind": "pseudo",
            "revision": cut.REVISION,
            "images": self.images.describe(_fine(frame, teacher.mpp)),
            "network": teacher.weights_sha256,
            "views": list(self.scales),
            "trust": [self.soft, self.sure, self.unknown],
            **self._caution(),
            "patch": {"mpp": frame.mpp, "side": frame.side},
        }

    def statements(self) -> tuple[str, ...]:
        teacher = load_teacher(self.network)
        (images,) = self.images.statements()
        by = _named(teacher)
        if self.witness is not None:
            by += f" where {_named(load_teacher(self.witness))} agrees"
        return (f"{images}; labelled by {by}",)

    def _caution(self) -> dict[str, Any]:
        """What only pools of sources that use it are keyed by: the others stay as they are."""
        said: dict[str, Any] = {"doubt": self.doubt} if self.doubt else {}
        if self.witness is not None:
            said["witness"] = [load_teacher(self.witness).weights_sha256, self.tolerance]
        return said

    def parts(self, frame: Frame, first: int) -> Iterator[PatchPool]:
        teacher = load_teacher(self.network)
        fine = _fine(frame, teacher.mpp)
        for some in self.images.parts(fine, first):
            yield PatchPool.join(
                [self._taught(teacher, image, known, fine.mpp, frame.mpp) for image, known in _pairs(some)]
            )

    def _taught(
        self, teacher: NetworkSegmenter, image: Image, known: npt.NDArray[np.uint8], fine: float, mpp: float
    ) -> PatchPool:
        from wsiseg.train.labelling import Trust, agreed, doubted, foreground_of, pseudo_labels

        small = cut.rescale(image, np.zeros(known.shape, dtype=np.int32), fine / mpp).image
        shape = (small.shape[0], small.shape[1])
        maps, labels, scores = self._seen(teacher, image, fine, mpp, shape)
        trust = Trust(self.soft, self.sure, self.unknown)
        outside = cut.nearest(known == OUTSIDE, shape) > 0
        around = np.where(outside, OUTSIDE, KNOWN).astype(np.uint8)
        labels, covered, meant = pseudo_labels(maps, labels, scores, around, teacher.head, trust)
        if self.doubt:
            meant = doubted(small, labels, covered, meant, self.doubt)
        if self.witness is not None:
            other = load_teacher(self.witness)
            their_maps, theirs, _ = self._seen(other, image, fine, mpp, shape)
            foreground = foreground_of(their_maps, other.head)
            labels, meant = agreed(labels, covered, meant, theirs, foreground, self.tolerance)
        return PatchPool.of(small[None], cut.compact(labels)[None], covered[None], meant[None])

    def _seen(
        self, network: NetworkSegmenter, image: Image, fine: float, mpp: float, shape: tuple[int, int]
    ) -> tuple[tuple[Maps, ...], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """A network's maps of an image at ``fine`` and its nuclei as labels 1 … n, ``shape`` at ``mpp``; scores."""
        maps = mean_of_views(network, image, fine, self.scales)
        nuclei = network.head.decode(maps, network.decoder, {})
        scaled = Nuclei(nuclei.vertices * (network.mpp / mpp), nuclei.offsets, nuclei.columns)
        labels = rasterize(scaled, np.arange(1, len(scaled) + 1), shape)
        return tuple(_channels(m, shape) for m in maps), labels, nuclei.columns["score"].astype(np.float32)


def _named(network: NetworkSegmenter) -> str:
    return f"{network.name} (sha256 {network.weights_sha256[:12]}…, {network.card.licence})"


def mean_of_views(teacher: NetworkSegmenter, image: Image, mpp: float, scales: Sequence[float]) -> tuple[Maps, ...]:
    """What the decoder reads of an image (h, w, 3) at ``mpp``, averaged over enlargements; at the teacher's mpp."""
    from wsiseg.train.labelling import mirrored_maps

    # Types of nuclei, which come last where a network has them, are not averaged: nobody learns them.
    names = [name for name in teacher.head.inputs if teacher.head.maps[name].kind != "types"]
    base = mpp / teacher.mpp
    shape = cut.scaled_size(image.shape, base)
    views = []
    for scale in scales:
        size = cut.scaled_size(image.shape, base * scale)
        maps = mirrored_maps(teacher, _enlarged(image, size))[: len(names)]
        lengths = [shape[0] / size[0] if name in teacher.head.lengths else 1.0 for name in names]
        views.append([_channels(m, shape) * np.float32(f) for m, f in zip(maps, lengths, strict=True)])
    return tuple(np.mean(same, axis=0, dtype=np.float32) for same in zip(*views, strict=True))


def _fine(frame: Frame, mpp: float) -> Frame:
    """The frame in which patches are read: at the finer resolution of student and teacher."""
    fine = min(frame.mpp, mpp)
    return Frame(fine, round(frame.side * frame.mpp / fine), frame.workers)


def _pairs(pool: PatchPool) -> Iterator[tuple[Image, npt.NDArray[np.uint8]]]:
    return ((np.asarray(i), np.asarray(k)) for i, k in zip(pool.images, pool.known, strict=True))


def _channels(maps: Maps, shape: tuple[int, int]) -> Maps:
    """A map (h, w) or (c, h, w) at another size."""
    if maps.ndim == 2:
        return _resized(maps, shape)
    return np.stack([_resized(channel, shape) for channel in maps])


def _resized(values: Maps, shape: tuple[int, int]) -> Maps:
    from PIL import Image as Pillow

    if values.shape == shape:
        return values
    picture = Pillow.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Pillow.Resampling.BILINEAR))


def _enlarged(image: Image, shape: tuple[int, int]) -> Image:
    from PIL import Image as Pillow

    if image.shape[:2] == shape:
        return image
    way = Pillow.Resampling.BOX if shape[0] <= image.shape[0] // 2 else Pillow.Resampling.BICUBIC
    return np.asarray(Pillow.fromarray(image).resize((shape[1], shape[0]), way))
