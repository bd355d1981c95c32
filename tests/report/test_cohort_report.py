"""What sets a slide apart from its cohort, what is to be done, the page of a slide, and a cohort of many."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wsiseg.core.typed import as_plain, as_typed
from wsiseg.qc.rubric import expected_grade
from wsiseg.qc.scale import SCALE_WRONG
from wsiseg.qc.typical import typical_values
from wsiseg.report.actions import find_actions, write_actions
from wsiseg.report.cohort import COLUMNS, cohort_table
from wsiseg.report.distributions import ENOUGH, distribute, robust_z
from wsiseg.report.exhibits import gather_exhibits
from wsiseg.report.histogram import HEIGHT, WIDTH, draw_histogram
from wsiseg.report.html import render_report, write_report
from wsiseg.report.rows import amount, percent
from wsiseg.report.slidepage import render_slide, write_slide_pages
from wsiseg.results.folder import SlideFolder
from wsiseg.results.record import FailedRecord, SegmentedRecord, read_record
from wsiseg.testing.records import failed_record, finished_record

TYPICAL = {"nuclear_area_um2": 28.0, "hematoxylin_od": 0.3, "eosin_od": 0.2, "detail": 0.8}


def slide(name: str, *, typical: dict[str, float] | None = None, **changes: Any) -> SegmentedRecord:
    """A slide with nothing to do about it."""
    grade = expected_grade(np.full(60, 0.02), 60, 0.5)
    made = finished_record(name, slide=f"{name}.svs")
    made |= {"nuclei": 30_000, "tissue_mm2": 10.0, "grade": as_plain(grade.record()), **changes}
    return as_typed({**made, "typical": {**TYPICAL, **(typical or {})}}, SegmentedRecord)


def failure(name: str, **changes: Any) -> FailedRecord:
    return as_typed(failed_record(name, **changes), FailedRecord)


def cohort(count: int = 20) -> list[SegmentedRecord]:
    """Slides that differ a little."""
    return [slide(f"s{n:02d}", typical={"hematoxylin_od": 0.30 + 0.01 * (n % 5)}) for n in range(count)]


def by_name(records: list[Any]) -> dict[str, Any]:
    return {one.measure.name: one for one in distribute(records)}


def todo(records: list[Any]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for one in find_actions(records, distribute(records)):
        found.setdefault(one.id, {})[one.action] = one.reason
    return found


# --- distributions


def test_robust_z_by_hand() -> None:
    # Median 3, absolute deviations 2 1 0 1 97: their median is 1.
    z = robust_z(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    assert z is not None
    assert z.tolist() == pytest.approx([-1.349, -0.6745, 0.0, 0.6745, 65.4265])
    assert robust_z(np.array([2.0, 2.0, 2.0, 9.0])) is None
    assert robust_z(np.array([0.1 + 0.2, 0.3, 0.3, 0.3])) is None


def test_a_slide_of_another_stain_is_named_and_no_other() -> None:
    records = [*cohort(), slide("odd", typical={"hematoxylin_od": 0.9})]
    found = by_name(records)
    assert found["hematoxylin_od"].outliers == ("odd",)
    assert found["eosin_od"].outliers == found["nuclei_per_mm2"].outliers == ()
    assert "haematoxylin 0.90 OD, far above the cohort's median of 0.32 OD" in todo(records)["odd"]["review"]
    assert set(todo(records)) == {"odd"}


def test_of_few_slides_none_is_named() -> None:
    records = [*cohort(ENOUGH - 2), slide("odd", typical={"hematoxylin_od": 0.9})]
    assert by_name(records)["hematoxylin_od"].outliers == ()
    assert todo(records) == {}


def test_areas_are_compared_as_ratios() -> None:
    areas = [20.0, 22, 24, 26, 28, 30, 32, 34, 7.0, 100.0]
    records = [slide(f"s{n}", typical={"nuclear_area_um2": area}) for n, area in enumerate(areas)]
    z = by_name(records)["nuclear_area_um2"].z
    assert z["s8"] < -3.5 < 3.5 < z["s9"]


def test_a_histogram_counts_every_slide_once_and_stays_in_its_plot() -> None:
    plot = draw_histogram(by_name([*cohort(), slide("odd", typical={"hematoxylin_od": 0.9})])["hematoxylin_od"])
    assert sum(int(bar.text.split(" ")[0]) for bar in plot.bars) == plot.count == 21
    assert all(0 <= bar.x <= bar.x + bar.width <= WIDTH and 0 < bar.height <= HEIGHT for bar in plot.bars)
    assert [(mark.id, mark.x) for mark in plot.marks] == [("odd", WIDTH)]
    same = draw_histogram(by_name([slide("a"), slide("b")])["detail"])
    assert (len(same.bars), same.low, same.high) == (1, "0.80", "0.80")


def test_records_of_before_and_failed_slides_have_no_place_in_a_distribution() -> None:
    old = as_typed({**as_plain(slide("old")), "typical": None}, SegmentedRecord)
    found = by_name([old, failure("f"), slide("empty", tissue_mm2=0.0, nuclei=0)])
    assert set(found["detail"].values) == {"empty"}
    assert set(found["nuclei_per_mm2"].values) == {"old"}
    assert distribute([failure("f")]) == ()


def test_typical_values_are_medians_of_what_was_measured() -> None:
    verdicts = {
        "nuclei": np.array([10.0, 90.0, 0.0]), "area_log": np.log([60.0, 30.0, np.nan]),
        "stain_h": np.array([0.2, 0.4, np.nan]), "stain_e": np.array([0.1, 0.1, 0.4]),
        "detail": np.array([np.nan] * 3), "score_mean": np.array([0.8, 0.9, 0.7]),
    }  # fmt: skip
    found = typical_values(verdicts)
    assert found.nuclear_area_um2 == pytest.approx(30.0)
    assert (found.hematoxylin_od, found.eosin_od) == pytest.approx((0.3, 0.1))
    assert (found.detail, found.expected_aji) == (None, None)
    assert set(as_plain(typical_values({"reason": np.empty(0)})).values()) == {None}


# --- what to do


@pytest.mark.parametrize(
    ("changes", "action", "said"),
    [
        ({"artefacts": {"out_of_focus": 0.3}}, "rescan", "out of focus on 30% of it: scan it again"),
        ({"artefacts": {"fold": 0.25}}, "rescan", "tissue folds on 25% of it: take another section"),
        ({"notes": [f"{SCALE_WRONG}: too large"]}, "rescan", "its 0.25 µm per pixel are probably wrong"),
        ({"artefacts": {"understained": 0.7}}, "review", "too pale on 70% of it"),
        ({"tissue_mm2": 0.0, "nuclei": 0}, "exclude", "no tissue was found"),
        ({"nuclei": 0}, "exclude", "no nucleus was found on its tissue"),
        ({"artefacts": {"out_of_focus": 0.1, "acellular": 0.6}}, "", ""),
    ],
)  # fmt: skip
def test_what_to_do_follows_from_the_record(changes: dict[str, Any], action: str, said: str) -> None:
    found = todo([slide("a", **changes)]).get("a", {})
    assert list(found) == ([action] if action else [])
    assert said in found.get(action, "")


def test_a_grade_that_may_be_good_is_looked_at_one_that_cannot_be_is_excluded() -> None:
    sure = expected_grade(np.full(400, 0.97), 400, 0.1)
    unsure = expected_grade(np.full(40, 0.3), 40, 2.5)
    none = expected_grade(np.full(4, 0.9), 4, 0.5, unassessed="There is too little tissue.")
    records = [slide(name, grade=as_plain(one.record())) for name, one in (("s", sure), ("u", unsure), ("n", none))]
    found = todo(records)
    assert "graded Unacceptable, and Unacceptable at best" in found["s"]["exclude"]
    assert list(found["u"]) == ["review"]
    assert "and could be" in found["u"]["review"]
    assert found["n"] == {"review": "not assessed: There is too little tissue"}


def test_the_list_is_a_table_for_spreadsheets(tmp_path: Path) -> None:
    records = [
        slide("=1+1", nuclei=0),
        failure("f"),
        slide("b", artefacts={"pen": 0.5, "fold": 0.3}),
        slide("c\udcff", nuclei=0),
    ]
    with open(write_actions(tmp_path, records), encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["action"]) for row in rows] == [
        ("'=1+1", "exclude"), ("c?", "exclude"), ("b", "rescan"), ("f", "run again"),
    ]  # fmt: skip
    assert "; tissue folds on 30%" in rows[2]["reason"]
    with open(write_actions(tmp_path, []), encoding="utf-8-sig") as file:
        assert file.read() == "id,path,action,reason\n"


def test_the_table_has_every_number() -> None:
    records = [
        *cohort(),
        slide("odd", typical={"hematoxylin_od": 0.9}, artefacts={"fold": 0.25}, usable_mm2=7.5),
        failure("f"),
    ]
    table = cohort_table(records)
    assert table.column_names == [name for name, _ in COLUMNS]
    row = table.to_pylist()[-2]
    assert (row["hematoxylin_od"], row["artefact_fold"], row["usable_mm2"]) == (0.9, 0.25, 7.5)
    assert row["z_hematoxylin_od"] > 3.5
    assert row["z_detail"] is None
    assert (row["action"], row["assessed"], row["patches_placed"], row["tiles_total"]) == ("rescan", True, 60, 1)
    assert table.to_pylist()[-1]["action"] == "run again"


# --- the pages


def results(out: Path, record: SegmentedRecord) -> Path:
    """A slide's folder with pictures of some of its patches."""
    folder = out / record.id
    (folder / "pictures").mkdir(parents=True)
    names = ["overview.jpg", "quality.jpg", "artefacts.jpg", "worst-1-patch-3.jpg", "typical-1-patch-0.jpg"]
    for name in names:
        Image.new("RGB", (64, 64), (200, 100, 150)).save(folder / "pictures" / name)
    count = 5
    columns = {
        "index": np.arange(count), "reason": ["", "", "", "blurred", ""],
        "expected_aji": [0.6, 0.6, np.nan, 0.2, 0.5],
        "aji_low": np.full(count, 0.1), "aji_high": np.full(count, 0.7), "p_bad": [0.3, 0.05, 0.0, 0.93, 0.4],
    }  # fmt: skip
    pq.write_table(pa.table(columns), folder / "patches.parquet")
    return folder


def test_the_page_of_a_slide_needs_no_slide(tmp_path: Path) -> None:
    record = slide("a b", artefacts={"fold": 0.02, "pen": 0.0})
    folder = results(tmp_path, record)
    write_slide_pages(tmp_path, [record, failure("f")])
    text = (folder / "report.html").read_text("utf-8")
    for said in (
        "Out of focus; expected AJI 0.20 (90%: 0.10–0.70), P(bad) 0.93.", "Rather good; expected AJI 0.60",
        "tissue folds 2.0%", "bad, P(bad) 0.75–1.00: 1", "60 patches were judged", "../report.html",
    ):  # fmt: skip
        assert said in text, said
    assert set(re.findall(r'src="([^"]*)"', text)) == {
        f"./pictures/{name}.jpg"
        for name in ("overview", "quality", "artefacts", "worst-1-patch-3", "typical-1-patch-0")
    }
    assert "<script" not in text
    assert "script-src 'none'" in text.replace("&#39;", "'")
    assert not (tmp_path / "f").exists()
    before = (folder / "report.html").stat().st_mtime_ns
    write_slide_pages(tmp_path, [record])
    assert (folder / "report.html").stat().st_mtime_ns == before  # what has not changed is not written


def test_the_page_of_an_older_result_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_slide_pages(tmp_path, [slide("a")])
    assert "There are no pictures" in (tmp_path / "a" / "report.html").read_text("utf-8")


def test_a_small_cohort_is_one_page_with_its_pictures(tmp_path: Path) -> None:
    record = slide("a b")
    results(tmp_path, record)
    text = write_report(tmp_path, [record]).read_text("utf-8")
    assert text.count('src="data:image/jpeg;base64,') == 5
    assert 'href="./a%20b/pictures/worst-1-patch-3.jpg"' in text
    assert 'href="./a%20b/report.html"' in text


def test_pictures_of_strangers_are_left_out(tmp_path: Path) -> None:
    record = slide("a")
    folder = results(tmp_path, record)
    (folder / "pictures" / "quality.jpg").write_text("<svg onload=alert(1)>")
    (folder / "pictures" / "worst-1-patch-<b>.jpg").write_bytes(b"\xff\xd8")
    (folder / "patches.parquet").write_bytes(b"PAR1 nothing")
    shown = gather_exhibits(folder, record, embed=True)
    assert [picture.title for picture in (*shown.maps, *shown.worst, *shown.typical)] == [
        "The slide",
        "Artefacts",
        "1",
        "a",
    ]
    assert shown.worst[0].caption == ""


@pytest.mark.parametrize("nasty", ['"><img src=x onerror=alert(1)>', "<script>alert(1)", "'-alert(3)-'", "{{7*7}}"])
def test_names_cannot_break_out_of_lists_plots_and_pages(nasty: str, tmp_path: Path) -> None:
    bad = finished_record(nasty, slide=nasty)
    bad |= {"nuclei": 0, "tissue_mm2": 3.0, "typical": {**TYPICAL, "hematoxylin_od": 0.9}, "notes": [nasty]}
    evil = as_typed(bad, SegmentedRecord)
    folder = results(tmp_path, slide("a"))
    pq.write_table(
        pa.table(
            {
                "index": [3, 0],
                "reason": [nasty, ""],
                **{n: [0.9, 0.1] for n in ("expected_aji", "aji_low", "aji_high", "p_bad")},
            }
        ),
        folder / "patches.parquet",
    )
    exhibits = gather_exhibits(folder, slide("a"), embed=False)
    records = [*cohort(), evil]
    for page in (
        render_report(records, {}, nasty, {nasty: exhibits}),
        render_slide(evil, exhibits, find_actions([evil], ())),
    ):
        assert "<img src=x" not in page
        assert "<script>alert" not in page
        assert ("{{7*7}}" in page) == (nasty == "{{7*7}}")


def test_settings_are_shown_once_whatever_the_slides_mpp() -> None:
    records = [slide(f"s{n}") for n in range(3)]
    for n, one in enumerate(records):
        one.specification["slide_mpp"] = 0.25 + n / 1e4  # type: ignore[index]
    records[2].specification["model"]["name"] = "unet-0.25"
    text = render_report(records, {}, "t")
    assert text.count("The whole specification") == 1
    assert "<code>classical</code> 2 slides<br><code>unet-0.25</code> 1 slide<" in re.sub(r"\s*\n\s*", "", text)


def test_bars_are_scaled_to_all_slides() -> None:
    bad = expected_grade(np.full(400, 0.97), 400, 0.1)
    records = [*cohort(3), slide("bad", grade=as_plain(bad.record()))]
    widths = re.findall(r'<rect class="[A-Z]\w+" x="110" y="\d+" width="([\d.]+)"', render_report(records, {}, "t"))
    assert sorted(map(float, widths)) == [0.0, 0.0, 0.0, 75.0, 225.0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0041, "0.0041"),
        (0.72, "0.72"),
        (12.34, "12.3"),
        (40.0, "40"),
        (1234.5, "1,234"),
        (3e-9, "3.0e-09"),
    ],
)
def test_amounts_are_not_rounded_to_nothing(value: float, text: str) -> None:
    assert amount(value) == text


def test_shares_are_not_rounded_to_nothing() -> None:
    assert [percent(share) for share in (0.0, 1e-5, 0.0123, 1.0)] == ["0.0%", "< 0.1%", "1.2%", "100.0%"]
    assert "0.004 mm²" in re.sub(r"\s+", " ", render_report([slide("a", tissue_mm2=0.004)], {}, "t"))


def test_pictures_and_pages_are_ours_and_may_be_replaced(tmp_path: Path) -> None:
    record = slide("a")
    folder = results(tmp_path, record)
    (folder / "slide.json").write_text(json.dumps(record.to_dict()))
    write_slide_pages(tmp_path, [record])
    SlideFolder(tmp_path, "a").require_replaceable()
    assert read_record(folder) == record


def test_many_slides_fit_into_one_page(load_benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
    benchmark = load_benchmark("report")
    benchmark.write_cohort_folder(tmp_path / "out", 55)
    records = benchmark.read_records(tmp_path / "out")
    assert len(records) == 55
    text = write_report(tmp_path / "out", records).read_text("utf-8")
    assert benchmark.References(text).found == []
    assert text.count('src="data:image/jpeg') == 54
    write_slide_pages(tmp_path / "out", records)
    assert len(list((tmp_path / "out").glob("*/report.html"))) == 54
