"""What a slide's judged patches typically have, by which a cohort's slides are compared."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from wsiseg.qc.scale import nuclear_area
from wsiseg.results.record import Typical


def typical_values(verdicts: Mapping[str, npt.NDArray[np.generic]]) -> Typical:
    """Medians over the judged patches.

    Parameters
    ----------
    verdicts : mapping of str to array (P,)
        The columns of ``patches.parquet``; of one that is not there nothing is said.
    """

    def median(name: str) -> float | None:
        values = np.asarray(verdicts.get(name, ()), dtype=np.float64)
        values = values[np.isfinite(values)]
        return float(np.median(values)) if len(values) else None

    return Typical(
        nuclear_area_um2=nuclear_area(verdicts)[1],
        hematoxylin_od=median("stain_h"),
        eosin_od=median("stain_e"),
        detail=median("detail"),
        expected_aji=median("expected_aji"),
        score=median("score_mean"),
    )
