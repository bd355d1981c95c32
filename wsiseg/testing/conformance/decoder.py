"""What every decoder must pass (:class:`wsiseg.models.decoders.Decoder`).

Each check takes a :class:`Case`: the decoder, maps with nuclei in them, and what is constant for a whole slide. A
decoder conforms when each of :data:`CHECKS` returns for it.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from wsiseg.core.nuclei import Nuclei
from wsiseg.models.decoders import Decoder, build_decoder, decoder_name
from wsiseg.models.heads import Head
from wsiseg.testing.conformance.nuclei import check_equal, check_polygons, check_scores, far_inside

Maps = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Case:
    """A decoder and what it is to decode.

    Attributes
    ----------
    decoder : Decoder
    head : Head
        The one whose maps these are.
    maps : sequence of float32 array (h, w) or (channels, h, w)
        As :meth:`Head.activate` gives them for one image.
    calibration : mapping
        The slide's constants, as :meth:`Head.calibrate` gives them; {} where the decoder needs none.
    """

    decoder: Decoder
    head: Head
    maps: Sequence[Maps]
    calibration: Mapping[str, float]

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.maps[0].shape[-2:]
        return height, width

    def decode(self, maps: Sequence[Maps]) -> Nuclei:
        return self.head.decode(maps, self.decoder, self.calibration)


def check_value(case: Case) -> None:
    """A frozen value with a name, that can be built again from its parameters and sent to another process."""
    decoder = case.decoder
    parameters = {field.name: getattr(decoder, field.name) for field in dataclasses.fields(decoder)}
    assert build_decoder(decoder_name(decoder), parameters) == decoder
    assert pickle.loads(pickle.dumps(decoder)) == decoder
    assert hash(decoder) == hash(dataclasses.replace(decoder))
    assert math.isfinite(decoder.mpp)
    assert decoder.mpp > 0
    assert decoder.max_diameter_um > 0
    assert decoder.margin_px >= 0


def check_nuclei(case: Case) -> None:
    """Simple polygons inside the maps, with scores."""
    nuclei = case.decode(case.maps)
    assert len(nuclei), "the maps hold no nuclei: nothing is checked"
    check_polygons(nuclei, case.shape[1], case.shape[0])
    check_scores(nuclei)


def check_determinism(case: Case) -> None:
    """The same maps give the same nuclei, bit for bit, and are left as they were."""
    before = [values.copy() for values in case.maps]
    first = case.decode(case.maps)
    for values, expected in zip(case.maps, before, strict=True):
        np.testing.assert_array_equal(values, expected)
    check_equal(case.decode(before), first)


def check_layout(case: Case) -> None:
    """Maps that are no contiguous block of memory, as crops of a larger window are, give the same nuclei."""
    strided = [np.pad(values, [(0, 0)] * (values.ndim - 2) + [(3, 2), (5, 4)]) for values in case.maps]
    crops = [values[..., 3:-2, 5:-4] for values in strided]
    check_equal(case.decode(crops), case.decode(case.maps))


def check_nothing(case: Case) -> None:
    """Maps of zeros hold no nucleus, and the answer has the columns that every answer has."""
    nuclei = case.decode([np.zeros_like(values) for values in case.maps])
    assert len(nuclei) == 0
    expected = {name: column.dtype for name, column in case.decode(case.maps).columns.items()}
    assert {name: column.dtype for name, column in nuclei.columns.items()} == expected


def check_margin(case: Case) -> None:
    """A nucleus depends on the maps within the margin around it, and on nothing beyond."""
    margin, (height, width) = case.decoder.margin_px, case.shape
    step = margin // 2 + 1
    assert min(height, width) > step + 2 * margin, "too small maps"
    whole = case.decode(case.maps)
    part = case.decode([np.ascontiguousarray(values[..., step:, step:]) for values in case.maps])
    seen = (float(step), float(step), float(width), float(height))
    expected = far_inside(whole, seen, margin)
    assert len(expected), "no nucleus is far enough inside: nothing is checked"
    assert _rings(far_inside(part.translate(step, step), seen, margin)) == _rings(expected)


CHECKS = (check_value, check_nuclei, check_determinism, check_layout, check_nothing, check_margin)


def _rings(nuclei: Nuclei) -> set[tuple[bytes, float]]:
    """Rings, to a millionth of a pixel, and scores."""
    rings = np.split(np.round(nuclei.vertices, 6) + 0.0, nuclei.offsets[1:-1])
    return {(ring.tobytes(), float(nuclei.columns["score"][n])) for n, ring in enumerate(rings[: len(nuclei)])}
