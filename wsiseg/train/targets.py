"""What a network is to give for a view of a patch, by head: maps of the view's size.

Every head's targets have ``foreground`` (the covered fraction, 0 to 1) and ``known`` (1 where it is meant). A
nucleus that the patch or its image cuts has neither a centre nor an extent: ``inside`` is 0 there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from wsiseg.core.compiled import compiled
from wsiseg.core.geometry import FloatArray
from wsiseg.train.patches import KNOWN, PatchPool
from wsiseg.train.views import Float32, Int32, Sample, View, look

Targets = dict[str, Float32]
_REACH_UM = 16.0


@dataclass(frozen=True)
class OffsetTargets:
    """``offset`` (2, s, s): y, x in pixels to the centroid; ``inside``; ``depth``, see :class:`Sample`."""

    def of(self, sample: Sample, mpp: float) -> Targets:
        offset, inside = _offsets(sample.labels, sample.centre, sample.cut)
        return {"offset": offset, "inside": inside, "depth": sample.depth}


@dataclass(frozen=True)
class ForegroundTargets:
    """The foreground alone."""

    def of(self, sample: Sample, mpp: float) -> Targets:
        return {}


@dataclass(frozen=True)
class SeedTargets:
    """``seed`` (s, s): 1 in each nucleus within ``radius_um`` of its centroid.

    How large the authors' seeds are is not published; their decoder's threshold of .07 on the smoothed map means
    small.
    """

    radius_um: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.radius_um <= 10:
            raise ValueError(f"radius_um: got {self.radius_um}; expected 0 to 10")

    def of(self, sample: Sample, mpp: float) -> Targets:
        offset, inside = _offsets(sample.labels, sample.centre, sample.cut)
        near = np.hypot(offset[0], offset[1]) <= self.radius_um / mpp
        seed = (near & (sample.labels > 0)).astype(np.float32)
        # Where the seed of a nucleus that is cut would be nobody knows.
        return {"seed": seed, "meant": ((sample.labels == 0) | (inside > 0)).astype(np.float32)}


@dataclass(frozen=True)
class HoverTargets:
    """``distance`` (2, s, s): x, y from -1 at a nucleus' first pixel over 0 at its centroid to 1 at its last."""

    def of(self, sample: Sample, mpp: float) -> Targets:
        distance, inside = _distances(sample.labels, sample.centre, sample.low, sample.high, sample.cut)
        return {"distance": distance, "inside": inside}


@dataclass(frozen=True)
class StarTargets:
    """``rays`` (R, s, s): pixels to the border, ray k by an angle of 2πk/R from x to y; ``inside``; ``depth``."""

    rays: int = 32

    def of(self, sample: Sample, mpp: float) -> Targets:
        angle = 2 * np.pi * np.arange(self.rays) / self.rays
        _, inside = _offsets(sample.labels, sample.centre, sample.cut)
        rays, complete = _rays(sample.labels, np.sin(angle), np.cos(angle))
        return {"rays": rays, "inside": inside * complete, "depth": sample.depth}


HEAD_TARGETS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "offsets": OffsetTargets,
        "foreground": ForegroundTargets,
        "seeds": SeedTargets,
        "hover": HoverTargets,
        "star": StarTargets,
    }
)


def make_targets(kind: Any, sample: Sample, mpp: float) -> Targets:
    """The maps of one of :data:`HEAD_TARGETS` for a sample at ``mpp``, float32 (s, s) or (c, s, s)."""
    known = (sample.known == KNOWN).astype(np.float32)
    targets: Targets = {"foreground": sample.covered, "known": known, **kind.of(sample, mpp)}
    return targets


def sample_patch(pool: PatchPool, index: int, view: View, mpp: float) -> Sample:
    """What ``view`` shows of a patch at ``mpp``; nuclei are followed beyond it as far as they reach."""
    return look(pool, index, view, round(_REACH_UM / mpp))


@compiled
def _offsets(labels: Int32, centre: FloatArray, cut: npt.NDArray[np.bool_]) -> tuple[Float32, Float32]:
    height, width = labels.shape
    offset = np.zeros((2, height, width), dtype=np.float32)
    inside = np.zeros((height, width), dtype=np.float32)
    for i in range(height):
        for j in range(width):
            name = labels[i, j]
            if name > 0:
                offset[0, i, j] = centre[name, 0] - i
                offset[1, i, j] = centre[name, 1] - j
                inside[i, j] = 0 if cut[name] else 1
    return offset, inside


@compiled
def _distances(
    labels: Int32, centre: FloatArray, low: FloatArray, high: FloatArray, cut: npt.NDArray[np.bool_]
) -> tuple[Float32, Float32]:
    height, width = labels.shape
    distance = np.zeros((2, height, width), dtype=np.float32)
    inside = np.zeros((height, width), dtype=np.float32)
    for i in range(height):
        for j in range(width):
            name = labels[i, j]
            if name == 0:
                continue
            inside[i, j] = 0 if cut[name] else 1
            for axis in range(2):
                step = (i if axis == 0 else j) - centre[name, axis]
                span = high[name, axis] - centre[name, axis] if step > 0 else centre[name, axis] - low[name, axis]
                value = step / span if span > 0 else 0.0
                distance[1 - axis, i, j] = min(max(value, -1.0), 1.0)
    return distance, inside


@compiled
def _rays(labels: Int32, sine: FloatArray, cosine: FloatArray) -> tuple[Float32, Float32]:
    """Lengths, and where all of them end within the array."""
    height, width = labels.shape
    rays = np.zeros((len(sine), height, width), dtype=np.float32)
    complete = np.ones((height, width), dtype=np.float32)
    for i in range(height):
        for j in range(width):
            name = labels[i, j]
            if name == 0:
                continue
            for k in range(len(sine)):
                length = 0.5
                while True:
                    y, x = int(np.floor(i + 0.5 + length * sine[k])), int(np.floor(j + 0.5 + length * cosine[k]))
                    if not (0 <= y < height and 0 <= x < width):
                        complete[i, j] = 0
                        break
                    if labels[y, x] != name:
                        length -= 0.25  # between the last step inside and the first outside
                        break
                    length += 0.5
                rays[k, i, j] = length
    return rays, complete
