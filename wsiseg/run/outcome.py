"""What a call that segments slides gives back: a slide's results, and those of several."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from wsiseg import errors
from wsiseg.qc.rubric import GRADES
from wsiseg.report.cohort import cohort_table
from wsiseg.results.nuclei import read_geodataframe
from wsiseg.results.record import FailedRecord, GradeRecord, SegmentedRecord, SlideRecord
from wsiseg.results.uploaded import bring_back
from wsiseg.slide import Slide, open_slide
from wsiseg.slide.remote import local, location

if TYPE_CHECKING:
    import geopandas
    import pandas

_SHOWN_PX = (480, 480)


@dataclass(frozen=True)
class SegmentResult:
    """A slide's results: a view of its folder that reads what it is asked for.

    Attributes
    ----------
    folder : Path
        The slide's folder of results (docs/format.md).
    record : SlideRecord
        The record of the slide, ``slide.json``.
    """

    folder: Path
    record: SlideRecord

    @property
    def id(self) -> str:
        """The slide's name among the results."""
        return self.record.id

    @property
    def status(self) -> str:
        """ "complete", "partial" where some area was lost, or "failed"."""
        return self.record.status

    @property
    def grade(self) -> GradeRecord | None:
        """The record's grade and what it rests on; None of a slide that failed."""
        return self.record.grade

    @cached_property
    def nuclei(self) -> geopandas.GeoDataFrame:
        """One polygon a nucleus in level-0 pixels, and its measurements; read once. See :func:`wsiseg.read_nuclei`.

        Raises
        ------
        SlideError
            The slide failed.
        """
        self.require_segmented()
        return read_geodataframe(bring_back(self.folder / "nuclei.parquet"))

    def open_slide(self) -> Slide:
        """The slide itself, with the microns per pixel that it was segmented with."""
        record = self.record
        mpp = record.slide.mpp if isinstance(record, SegmentedRecord) else None
        return open_slide(record.slide.path, mpp=mpp)

    def require_segmented(self) -> None:
        """Raise the error of a slide that failed."""
        if isinstance(self.record, FailedRecord):
            error = self.record.error
            kind = getattr(errors, error.kind, None)  # the name of a class of ours, or of whoever raised it
            if not (isinstance(kind, type) and issubclass(kind, errors.WsisegError)):
                kind = errors.SlideError
            raise kind(error.message)

    def __repr__(self) -> str:
        return f"<SegmentResult {self._summary()}>"

    def _repr_html_(self) -> str:
        caption = f"<figcaption>{html.escape(self._summary())}</figcaption>"
        return f"<figure>{_picture(self.folder / 'thumbnail.png')}{caption}</figure>"

    def _summary(self) -> str:
        record = self.record
        if isinstance(record, FailedRecord):
            return f"{self.id}: failed: {record.error.message}"
        lost = ", partial" if record.status == "partial" else ""
        return (
            f"{self.id}: {record.nuclei:,} nuclei in {record.tissue_mm2:.2f} mm², {record.grade.grade} "
            f"({record.grade.kind}: {record.grade.summary}){lost}"
        )


def _picture(thumbnail: Path) -> str:
    """The thumbnail as an HTML image that needs no file; nothing where there is none."""
    shrunk = io.BytesIO()
    try:
        with Image.open(thumbnail) as image:
            image.thumbnail(_SHOWN_PX)
            image.convert("RGB").save(shrunk, "JPEG", quality=85)
    except OSError:
        return ""
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(shrunk.getvalue()).decode()}">'


@dataclass(frozen=True)
class CohortResult:
    """What became of each slide of one call, in the order given; iterable, and indexed by number, id or path.

    Attributes
    ----------
    out : Path
        The results folder.
    report : Path
        ``report.html`` over all slides in it.
    records : tuple of SlideRecord
        As ``slide.json``; those of slides that failed say why.
    tiles_computed : int
        By this call; an earlier one may have computed others.
    seconds : float
    url : str or None
        Where the results were written through to; ``out`` then lacks what is large until it is asked for.
    """

    out: Path
    report: Path
    records: tuple[SlideRecord, ...]
    tiles_computed: int
    seconds: float
    url: str | None = None

    @property
    def report_place(self) -> str:
        """Where the report is for others: its path, or its URL."""
        return f"{self.url}/{self.report.name}" if self.url else str(self.report)

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "out": self.url or str(self.out),
            "report": self.report_place,
            "exit_code": self.exit_code,
            "tiles_computed": self.tiles_computed,
            "seconds": self.seconds,
            "slides": [record.to_dict() for record in self.records],
        }

    def count(self, status: str) -> int:
        return sum(record.status == status for record in self.records)

    @property
    def exit_code(self) -> int:
        """0 all complete, 3 some failed or partial, 4 all failed."""
        if self.records and self.count("failed") == len(self.records):
            return 4
        return 0 if self.count("complete") == len(self.records) else 3

    def below(self, grade: str) -> tuple[str, ...]:
        """The slides with a grade worse than this one; those that are not assessed have none."""
        worse = GRADES[GRADES.index(grade) + 1 :]
        return tuple(record.id for record in self.records if record.grade and record.grade.grade in worse)

    @property
    def table(self) -> pandas.DataFrame:
        """One row a slide: the columns of ``cohort.csv``."""
        return cohort_table(self.records).to_pandas()

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[SegmentResult]:
        return map(self._result, self.records)

    def __getitem__(self, slide: int | str | os.PathLike[str]) -> SegmentResult:
        """The result of a slide.

        Raises
        ------
        IndexError, KeyError
            There is none.
        """
        if isinstance(slide, int):
            return self._result(self.records[slide])
        asked = os.fspath(slide)
        for record in self.records:
            if asked == record.id or location(local(asked)) == record.slide.path:
                return self._result(record)
        raise KeyError(f"no slide {asked!r} among {[record.id for record in self.records]}")

    def _result(self, record: SlideRecord) -> SegmentResult:
        return SegmentResult(Path(os.path.abspath(self.out / record.id)), record)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(status)} {status}" for status in ("complete", "partial", "failed"))
        return f"<CohortResult {len(self)} slides: {counts}; in {(self.url or str(self.out))!r}>"

    def _repr_html_(self) -> str:
        columns = ["id", "status", "grade", "nuclei", "tissue_mm2", "nuclei_per_mm2", "error", "notes"]
        shown = self.table[columns].dropna(axis="columns", how="all")
        return str(shown.to_html(index=False, na_rep="", float_format="{:.4g}".format))
