"""GeoParquet with polygons, ours or another's, as a source of outlines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from wsiseg.core.nuclei import Nuclei
from wsiseg.errors import UsageError
from wsiseg.interop.segmentation import Contents, Segmentation
from wsiseg.results.nuclei import TYPE, TYPE_PROB, count_nuclei, iter_nuclei, numeric_columns, read_metadata


def describe_outlines(segmentation: Segmentation) -> Contents:
    """The types of nuclei that a file of ours declares; see :mod:`wsiseg.interop.segmentation`.

    Raises
    ------
    UsageError
        A file is no GeoParquet of polygons, or several of one slide declare different types.
    """
    declared = {tuple(read_metadata(path).get("types", ())) for path in segmentation.paths}
    if len(declared) > 1:
        raise UsageError(
            f"{segmentation.name}: files of one slide with different types of nuclei. Expected the same."
        )
    return Contents(types=declared.pop())


def iter_outlines(segmentation: Segmentation, passed: Counter[str]) -> Iterator[Nuclei]:
    """The row groups one after the other; of a MultiPolygon the largest part, without holes."""
    for path in segmentation.paths:
        columns = [name for name in ("score",) if name in numeric_columns(path)]
        columns += [TYPE, TYPE_PROB] if read_metadata(path).get("types") else []
        rows = 0
        for nuclei in iter_nuclei(path, columns=columns):
            rows += len(nuclei)
            yield nuclei
        if missing := count_nuclei(path) - rows:
            passed["row without a polygon"] += missing
