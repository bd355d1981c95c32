"""``report.html``: the cohort in one file that needs no network, no server and no script."""

from __future__ import annotations

import base64
import io
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from wsiseg.core.atomic import write_bytes
from wsiseg.qc.grade import WORDS
from wsiseg.qc.rubric import GRADES, Rubric
from wsiseg.report.actions import ACTIONS, FILE, Action, find_actions
from wsiseg.report.cohort import STAGES
from wsiseg.report.distributions import ENOUGH, FAR, distribute
from wsiseg.report.exhibits import Exhibits, gather_exhibits
from wsiseg.report.gallery import THUMBNAIL
from wsiseg.report.histogram import draw_histogram
from wsiseg.report.page import EMBEDDED, head, is_folder_name, resource, template
from wsiseg.report.rows import Row, amount, duration, make_row
from wsiseg.results.folder import PICTURES
from wsiseg.results.record import SegmentedRecord, Settings, SlideRecord

_EMBEDDED_BYTES = 14_000_000  # base64 makes 19 MB of it
_LONG_SIDES_PX = ((60, 640), (250, 420), (600, 300))  # up to so many slides, so many pixels
_SMALLEST_PX = 192
_EXHIBITED = 12
"""Slides up to which the page itself holds the maps and patches of each: a megabyte a slide."""
_DETAILED = 200
"""Slides up to which the page holds all that a record says; of more it is on the page of each slide."""
_LARGEST_PX = 4_000_000  # of a thumbnail.png: ours have a quarter of it
_JPEG_QUALITY = 72
_OF_A_SLIDE = ("calibration", "slide_mpp", "mpp_effective", "downsample", "roi", "mask_sha256", "mask_origin",
               "imported_from", "imported")  # fmt: skip
"""What of a specification is a slide's own."""


def write_report(out: Path, records: Sequence[SlideRecord], *, title: str | None = None) -> Path:
    """Write ``report.html`` into ``out``, atomically.

    Parameters
    ----------
    out : Path
        The results folder; thumbnails are taken from ``<slide-id>/thumbnail.png``. They are embedded smaller the
        more slides there are; 1,000 slides stay below 25 MB. Of up to twelve slides the maps and patches of
        ``<slide-id>/pictures`` are part of the page.
    records : sequence of SlideRecord
        Failed ones included.
    title : str, optional
        By default the folder's name.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    path = out / "report.html"
    shown = [record for record in records if isinstance(record, SegmentedRecord) and is_folder_name(record.id)]
    exhibits = {
        record.id: gather_exhibits(out / record.id, record, embed=True)
        for record in (shown if len(shown) <= _EXHIBITED else ())
    }
    page = render_report(records, _thumbnails(out, records), title or out.resolve().name, exhibits)
    write_bytes(path, page.encode("utf-8", "replace"))
    return path


def render_report(
    records: Sequence[SlideRecord],
    thumbnails: Mapping[str, str],
    title: str,
    exhibits: Mapping[str, Exhibits] | None = None,
) -> str:
    """The page as text; ``thumbnails`` are data URIs by the slides' ids, ``exhibits`` what is shown of them."""
    distributions = distribute(records)
    actions = find_actions(records, distributions)
    of_a_slide: dict[str, list[Action]] = {record.id: [] for record in records}
    for action in actions:
        of_a_slide[action.id].append(action)
    rows = [make_row(record, thumbnails.get(record.id), of_a_slide[record.id]) for record in records]
    segmented = [record for record in records if isinstance(record, SegmentedRecord)]
    return template("report.html.jinja").render(
        **head(images=EMBEDDED, script=resource("report.js")),
        title=title,
        rows=rows,
        exhibits=exhibits or {},
        detailed=len(rows) <= _DETAILED,
        names={row.id: row.name for row in rows},
        anchors={row.id: f"slide-{place}" for place, row in enumerate(rows)},
        histograms=[draw_histogram(one) for one in distributions] if len(segmented) > 1 else [],
        far=FAR,
        enough=ENOUGH,
        todo=[(name, text, [one for one in actions if one.action == name]) for name, text in ACTIONS.items()],
        actions_file=FILE,
        failed=[row for row in rows if row.status == "failed"],
        partial=[row for row in rows if row.status == "partial"],
        noted=[row for row in rows if row.notes],
        totals=_totals(segmented, rows),
        histogram=_grades(rows),
        grades=GRADES,
        unassessed=sum(not record.grade.assessed for record in segmented),
        kinds=sorted({record.grade.kind for record in segmented} - {""}),
        reasons=_reasons(segmented),
        limits=_limits(segmented),
        run=_run(segmented),
        timings=_timings(segmented),
        mpp_sources=Counter(row.mpp_source for row in rows).most_common(),
        seams=_seams(segmented),
        versions=", ".join(sorted({record.versions.get("wsiseg", "") for record in records} - {""})),
        created=day(max((record.created for record in records), default="")),
    )


def _thumbnails(out: Path, records: Sequence[SlideRecord]) -> dict[str, str]:
    """Data URIs by slide id, until the room is used up; the folders hold them all."""
    long_side = next((px for count, px in _LONG_SIDES_PX if len(records) <= count), _SMALLEST_PX)
    # An id that is a path would show a picture of another folder.
    names = [record.id for record in records if is_folder_name(record.id)]
    found, used = {}, 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding and scaling release the GIL
        for name, jpeg in zip(names, pool.map(lambda name: _thumbnail(out / name, long_side), names), strict=True):
            if jpeg is not None and used + len(jpeg) <= _EMBEDDED_BYTES:
                used += len(jpeg)
                found[name] = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return found


def _thumbnail(folder: Path, long_side: int) -> bytes | None:
    """Of the JPEG, which is scaled while it is decoded, else of the PNG: that takes ten times as long."""
    return _small_jpeg(folder / PICTURES / THUMBNAIL, long_side) or _small_jpeg(folder / "thumbnail.png", long_side)


def _small_jpeg(path: Path, long_side: int) -> bytes | None:
    try:
        if not path.is_file():  # a pipe would keep its reader waiting
            return None
        with Image.open(path) as image:
            if image.width * image.height > _LARGEST_PX:
                return None
            image.draft("RGB", (long_side, long_side))
            small = image.convert("RGB")
    except Exception:  # none, or one that cannot be read, which decoders say in many ways: the table does without
        return None
    small.thumbnail((long_side, long_side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _totals(records: Sequence[SegmentedRecord], rows: Sequence[Row]) -> dict[str, str]:
    nuclei = sum(row.nuclei.value or 0 for row in rows)
    areas = [row.tissue.value for row in rows if row.tissue.value is not None]
    tissue = sum(areas)
    lost = sum(record.lost.area_mm2 for record in records)
    seconds = [row.seconds.value for row in rows if row.seconds.value is not None]
    return {
        "slides": f"{len(rows):,}",
        "complete": f"{sum(row.status == 'complete' for row in rows):,}",
        "partial": f"{sum(row.status == 'partial' for row in rows):,}",
        "failed": f"{sum(row.status == 'failed' for row in rows):,}",
        "nuclei": f"{nuclei:,.0f}",
        "tissue": amount(tissue),
        "median_tissue": amount(statistics.median(areas)) if areas else "–",
        "density": amount(nuclei / tissue) if tissue else "–",
        "lost": amount(lost),
        "lost_share": _small_share(lost / tissue) if lost and tissue else "",
        "time": duration(sum(seconds)) if seconds else "–",
        "median_time": duration(statistics.median(seconds)) if seconds else "–",
    }


def _small_share(share: float) -> str:
    return "< 0.01%" if share < 1e-4 else f"{share:.2%}"


def _grades(rows: Sequence[Row]) -> list[dict[str, Any]]:
    counts = Counter(row.grade for row in rows)
    graded = sum(counts[grade] for grade in GRADES) or 1
    return [
        {
            "grade": grade,
            "count": counts[grade],
            "share": f"{counts[grade] / graded:.0%}",
            "width": round(300 * counts[grade] / graded, 1),
            "y": 30 * place,
        }
        for place, grade in enumerate(GRADES)
    ]


def _reasons(records: Sequence[SegmentedRecord]) -> list[tuple[str, str]]:
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.grade.reasons)
    return [(WORDS.get(name, name), f"{count:,}") for name, count in counts.most_common()]


def _limits(records: Sequence[SegmentedRecord]) -> list[tuple[str, str]]:
    """The grades' limits as the records state them, in words."""
    stated = (record.grade.rubric for record in records)
    rubric = next((value for value in stated if value is not None), Rubric().to_dict())
    limits = [_share(rubric.get(name)) for name in ("good", "adequate", "problematic")]
    best = (
        f"at most {_share(rubric['best'])} of the patches expected to be bad"
        if "best" in rubric
        else "no bad patch"
    )
    texts = [best, *(f"at most {limit} of the patches bad" for limit in limits)]
    return list(zip(GRADES, [*texts, f"more than {limits[-1]}, or a slide that fails as a whole"], strict=True))


def _share(stated: Any) -> str:
    """ "1/15" as "1/15 (6.7%)"; what is no share as it stands."""
    try:
        return f"{stated} ({float(Fraction(str(stated))):.1%})"
    except (ValueError, ZeroDivisionError):
        return str(stated)


@dataclass(frozen=True)
class Run:
    """How the slides were segmented.

    Attributes
    ----------
    common : list of (str, str)
        What all slides have in common, in words.
    differing : list of (str, list of (str, int))
        What they do not: each value, and how many slides have it.
    json : str
        The whole of what they have in common.
    """

    common: list[tuple[str, str]]
    differing: list[tuple[str, list[tuple[str, int]]]]
    json: str


def _run(records: Sequence[SegmentedRecord]) -> Run | None:
    """The settings once for all slides; None where there are none. What is a slide's own is in its row."""
    if not records:
        return None
    stated = [_stated(record.settings) for record in records]
    values = {name: Counter(pairs.get(name, "–") for pairs in stated) for pairs in stated for name in pairs}
    texts = [{name: _json(value) for name, value in record.specification.items()} for record in records]
    first = {name: value for name, value in texts[0].items() if name not in _OF_A_SLIDE}
    common = {name: value for name, value in first.items() if all(text.get(name) == value for text in texts)}
    return Run(
        [(name, next(iter(counts))) for name, counts in values.items() if len(counts) == 1],
        [(name, counts.most_common()) for name, counts in values.items() if len(counts) > 1],
        _json({name: records[0].specification[name] for name in common}, indent=2),
    )


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False)


def _stated(settings: Settings) -> dict[str, str]:
    pairs = {
        "Model": settings.model.name,
        "Licence": settings.model.licence,
        "Weights (SHA-256)": settings.model.weights_sha256,
        "Microns per pixel": settings.mpp_requested,
        "Tile": f"{settings.tile_px} px" if settings.tile_px else None,
        "Halo": f"{settings.halo_px} px" if settings.halo_px is not None else None,
    }
    return {name: str(item) for name, item in pairs.items() if item not in (None, "")}


def _timings(records: Sequence[SegmentedRecord]) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.seconds.items():
            if name != "total":
                seconds.setdefault(name, []).append(value)
    total = sum(map(sum, seconds.values())) or 1.0
    order = sorted(seconds, key=lambda name: (STAGES.index(name) if name in STAGES else len(STAGES), name))
    return [
        {
            "stage": name,
            "total": duration(sum(seconds[name])),
            "median": duration(statistics.median(seconds[name])),
            "share": f"{sum(seconds[name]) / total:.0%}",
            "width": round(160 * sum(seconds[name]) / total, 1),
        }
        for name in order
    ]


def _seams(records: Sequence[SegmentedRecord]) -> list[tuple[str, str]]:
    seams = [record.seams for record in records]
    return [
        ("Density at seams against the interior", _spread(one.density_ratio for one in seams)),
        ("Straight edges at seams against the interior", _spread(one.straight_edge_ratio for one in seams)),
        ("Nuclei in seam bands", f"{sum(one.band_nuclei for one in seams):,}"),
        ("Duplicates removed", f"{sum(one.duplicates_removed for one in seams):,}"),
        ("Adopted from a neighbouring tile", f"{sum(one.adopted for one in seams):,}"),
    ]


def _spread(ratios: Iterable[float | None]) -> str:
    values = [ratio for ratio in ratios if ratio is not None]
    if not values:
        return "–"
    return f"median {statistics.median(values):.3f}, from {min(values):.3f} to {max(values):.3f}"


def day(time: str) -> str:
    """ "2026-01-31T12:00:00Z" as "2026-01-31 12:00 UTC"."""
    return f"{time[:10]} {time[11:16]} UTC" if time.endswith("Z") and len(time) >= 17 else time
