"""Thumbnails, overlays, the cohort table and report.html, also against names that mean harm."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import html.parser
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wsiseg.core.geometry import Box, Scale, Window
from wsiseg.core.nuclei import Nuclei
from wsiseg.core.typed import as_plain, as_typed
from wsiseg.errors import UsageError
from wsiseg.qc.rubric import expected_grade, grade_of
from wsiseg.report.cohort import COLUMNS, cohort_table, write_cohort
from wsiseg.report.html import render_report, write_report
from wsiseg.report.overlay import draw_outlines, render_overlay, save_overlay
from wsiseg.report.rows import duration, make_row
from wsiseg.report.thumbnail import (
    count_nuclei_per_pixel,
    density_per_mm2,
    render_thumbnail,
    thumbnail_size,
    write_thumbnail,
)
from wsiseg.results.record import ErrorNote, FailedRecord, NotARecord, SegmentedRecord, SlidePlace, parse_record
from wsiseg.testing.nucleifile import NucleiWriter

NASTY = [
    '<script>alert(1)</script>',
    '"><img src=x onerror=alert(1)>',
    "</style><script>alert(2)</script>",
    "'-alert(3)-'",
    "]]>{{7*7}}{% raw %}<!--",
    '=HYPERLINK("http://evil.example","x")',
    "@SUM(A1)",
    "naïve 漢字 😐",
]  # fmt: skip


def plain(name: str, status: str = "complete", **changes: Any) -> dict[str, Any]:
    """A record's JSON, as in docs/format.md."""
    made: dict[str, Any] = {
        "schema": "wsiseg.slide", "version": 1, "id": name, "status": status, "error": None, "key": "0" * 64,
        "slide": {"path": f"/slides/{name}.svs", "name": f"{name}.svs", "fingerprint": "a" * 64, "reader": "tiff",
                  "vendor": "aperio", "width": 40000, "height": 30000, "levels": [[40000, 30000]],
                  "mpp": 0.25, "mpp_source": "metadata:aperio.MPP", "bounds": [0, 0, 40000, 30000]},
        "specification": {"model": {"name": "unet-s", "weights_sha256": "b" * 64, "licence": "Apache-2.0",
                                    "mpp": 0.5},
                          "calibration": {}, "mpp_requested": 0.5, "mpp_effective": 0.5, "downsample": 2.0,
                          "tile_px": 2048, "halo_px": 96, "roi": None, "mask_sha256": None},
        "tiles": {"total": 80, "done": 30, "blank": 50, "failed": 0},
        "lost": {"area_mm2": 0.0, "fraction_of_tissue": 0.0, "boxes": []},
        "nuclei": 123456, "tissue_mm2": 40.0, "artefacts": {},
        "seams": {"band_nuclei": 400, "duplicates_removed": 200, "adopted": 1, "density_ratio": 1.01,
                  "straight_edge_ratio": 0.98},
        "grade": as_plain(grade_of(1, 20, reasons={"uncovered": 1}, check="rules-1").record()),
        "timings_s": {"tissue": 1.0, "segment": 60.0, "stitch": 2.0, "maps": 3.0, "grade": 4.0, "total": 70.0},
        "versions": {"wsiseg": "0.1.0", "python": "3.11.7"}, "created": "2026-01-31T12:34:56Z",
    }  # fmt: skip
    return {**made, **changes}


def record(name: str, status: str = "complete", **changes: Any) -> SegmentedRecord:
    return as_typed(plain(name, status, **changes), SegmentedRecord)


def failure(name: str, kind: str = "MissingMppError", message: str = "no mpp") -> FailedRecord:
    return FailedRecord(
        id=name,
        error=ErrorNote(kind, message),
        slide=SlidePlace(f"/slides/{name}.svs", f"{name}.svs"),
        versions={"wsiseg": "0.1.0"},
        created="2026-01-31T12:34:56Z",
    )


class Page(html.parser.HTMLParser):
    """What a browser would make of the page: tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, list[str]] = {"script": [], "style": []}
        self.text: list[str] = []
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.blocks else None

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        (self.blocks[self._inside] if self._inside else self.text).append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


# --- cohort ---------------------------------------------------------------------------------------------------


def test_cohort_has_a_row_for_every_slide(tmp_path: Path) -> None:
    records = [record("a"), failure("b", message="give --mpp"), record("c", nuclei=0, tissue_mm2=0.0)]
    csv_path, parquet_path = write_cohort(tmp_path, records)
    table = pq.read_table(parquet_path)
    assert table.column_names == [name for name, _ in COLUMNS]
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    first, failed, empty = rows
    assert (first["grade"], first["bad_patches"], first["patches"], first["grade_kind"]) == (
        "Good",
        1,
        20,
        "automatic",
    )
    assert first["interval_low"] == pytest.approx(0.00126, abs=1e-4)
    assert first["nuclei_per_mm2"] == pytest.approx(3086.4)
    assert (first["mpp"], first["mpp_source"], first["model"]) == (0.25, "metadata:aperio.MPP", "unet-s")
    assert (failed["status"], failed["error_kind"], failed["error"]) == ("failed", "MissingMppError", "give --mpp")
    assert failed["nuclei"] is None
    assert failed["grade"] is None
    assert empty["nuclei_per_mm2"] is None
    with open(csv_path, encoding="utf-8-sig", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["id"] for row in read] == ["a", "b", "c"]
    assert float(read[0]["nuclei_per_mm2"]) == pytest.approx(3086.4)
    assert read[1]["nuclei"] == ""


def test_cohort_is_the_same_again_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    paths = write_cohort(tmp_path, [record("a"), failure("b")])
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_cohort(tmp_path, [record("a"), failure("b")])] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort.csv", "cohort.parquet"]


def test_names_do_not_become_formulas(tmp_path: Path) -> None:
    names = ["=1+1", "+1", "-1", "@x", "\t=1", "\n=1", "＝1+1", "plain", 'quote"d, name\nand line']
    path, parquet = write_cohort(tmp_path, [record(name) for name in names])
    with open(path, encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in list(csv.reader(file))[1:] for cell in row]
    starts = ("=", "+", "@", "\t", "\r", "\n", "＝")
    dangerous = [cell for cell in cells if cell.startswith(starts) or re.match(r"-\D", cell)]
    assert dangerous == []
    assert "'=1+1" in cells
    assert "plain" in cells
    assert 'quote"d, name\nand line' in cells
    assert pq.read_table(parquet).column("id").to_pylist() == names  # Parquet runs nothing and keeps the name


def test_a_name_that_is_no_text_does_not_cost_the_table(tmp_path: Path) -> None:
    _, path = write_cohort(tmp_path, [record("good"), record("bad\udcff")])
    assert pq.read_table(path).column("id").to_pylist() == ["good", "bad?"]
    _, path = write_cohort(tmp_path, [])
    assert pq.read_table(path).num_rows == 0


# --- report.html ----------------------------------------------------------------------------------------------


def test_report_shows_what_happened(tmp_path: Path) -> None:
    lost = {"area_mm2": 0.5, "fraction_of_tissue": 0.0125, "boxes": [[0, 0, 9, 9, "JPEG data are damaged"]] * 3}
    records = [
        record("a"),
        record("p", "partial", lost=lost, artefacts={"pen": 0.02, "fold": 0.0}),
        failure("f", message="Give it with --mpp 0.25."),
    ]
    text = " ".join(Page(write_report(tmp_path, records).read_text("utf-8")).text)
    text = re.sub(r"\s+", " ", text)
    for expected in (
        "1 complete · 1 partial · 1 failed", "246,912", "automatic, 1 of 20 patches bad",
        "could be Good to Unacceptable",
        "Give it with --mpp 0.25.", "MissingMppError", "--mpp-csv", "3 areas: JPEG data are damaged", "1.25%",
        "metadata:aperio.MPP", "Apache-2.0", "b" * 64, "2026-01-31 12:34 UTC", "2/15 (13.3%)", "unet-s",
        "No person has looked at", "pen 2.0%", "median 1.010, from 1.010 to 1.010", "1 min 10 s",
    ):  # fmt: skip
        assert expected in text, expected


def test_report_needs_no_network_and_allows_only_its_own_script(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (200, 100, 150)).save(_folder(tmp_path, "a") / "thumbnail.png")
    page = Page(write_report(tmp_path, [record("a")]).read_text("utf-8"))
    policy = next(m["content"] for m in page.attributes("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert "unsafe" not in policy
    for directive, block in (("script-src", "script"), ("style-src", "style")):
        (content,) = page.blocks[block]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives[directive] == f"'sha256-{digest}'"
        assert "http" not in content
        assert "@import" not in content
        assert "url(" not in content
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        source = attributes.get("src")
        assert source is None or source.startswith("data:image/jpeg;base64,")
        target = attributes.get("href")
        assert target is None or target.startswith(("#", "./"))


def test_thumbnails_are_embedded_and_linked(tmp_path: Path) -> None:
    Image.new("RGB", (1024, 700), (200, 100, 150)).save(_folder(tmp_path, "a b#1") / "thumbnail.png")
    (_folder(tmp_path, "broken") / "thumbnail.png").write_bytes(b"no image")
    page = Page(write_report(tmp_path, [record("a b#1"), record("broken"), failure("f")]).read_text("utf-8"))
    (image,) = (attributes for attributes in page.attributes("img") if attributes.get("src"))
    content = base64.b64decode(str(image["src"]).split(",", 1)[1])
    path = tmp_path / "embedded.jpg"
    path.write_bytes(content)
    assert max(Image.open(path).size) == 640
    assert (image["loading"], image["alt"]) == ("lazy", "Overview of a b#1.svs")
    assert [a["href"] for a in page.attributes("a") if "title" in a] == ["./a%20b%231/thumbnail.png"]


def test_many_slides_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    names = [f"s{n}" for n in range(12)]
    for name in names:
        Image.fromarray(noise).save(_folder(tmp_path, name) / "thumbnail.png", compress_level=0)
    monkeypatch.setattr("wsiseg.report.html._EMBEDDED_BYTES", 500_000)
    path = write_report(tmp_path, [record(name) for name in names])
    shown = path.read_text("utf-8").count("data:image/jpeg")
    assert 0 < shown < 12
    assert path.stat().st_size < 500_000 * 4 / 3 + 200_000


@pytest.mark.parametrize("nasty", NASTY)
def test_names_cannot_break_out(nasty: str) -> None:
    evil = plain(nasty)
    evil["slide"].update(path=f"/x/{nasty}", name=nasty, vendor=nasty, mpp_source=nasty)
    evil["specification"]["model"].update(name=nasty, licence=nasty)
    evil["specification"]["calibration"] = {nasty: nasty}
    evil["grade"].update(failure=nasty, reasons={nasty: 2}, check=nasty, kind=nasty, grade=nasty)
    evil["lost"] = {"area_mm2": 1.0, "fraction_of_tissue": 0.1, "boxes": [[0, 0, 1, 1, nasty]]}
    evil.update(status="partial", versions={"wsiseg": nasty}, created=nasty)
    evil["timings_s"][nasty] = 1.0
    records = [as_typed(evil, SegmentedRecord), failure(nasty, kind=nasty, message=nasty), record("calm")]
    page = Page(render_report(records, {}, nasty))
    lost = {"area_mm2": 1.0, "fraction_of_tissue": 0.1, "boxes": [[0, 0, 1, 1, "damaged"]]}
    partial = record("c", "partial", lost=lost)
    calm = Page(render_report([record("calm"), failure("f"), partial], {}, "calm"))
    assert len(page.blocks["script"]) == len(page.blocks["style"]) == 1
    assert page.blocks == calm.blocks
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in calm.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not any("src" in attributes for _, attributes in page.tags)
    assert sum(nasty in text for text in page.text) >= 5  # shown as it is


def test_report_of_nothing_and_of_a_name_that_is_no_text(tmp_path: Path) -> None:
    assert "0 complete" in write_report(tmp_path, []).read_text("utf-8")
    assert "1 complete · 0 partial · 1 failed" in re.sub(
        r"\s+", " ", " ".join(Page(write_report(tmp_path, [record("x\udcff"), failure("\udcff")]).read_text()).text)
    )


ODD = [7, -1.5, 10**400, float("nan"), float("inf"), "text", "", True, [], [[]], [None, "a"], {}, {"a": [1]}]


def changed(value: Any, odd: Any, at: int, count: list[int]) -> Any:
    """The record with its node number ``at``, in the order of reading, replaced."""
    count[0] += 1
    if count[0] == at:
        return odd
    if isinstance(value, dict):
        return {name: changed(inner, odd, at, count) for name, inner in value.items()}
    return [changed(inner, odd, at, count) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd)[:9])
def test_whatever_a_record_holds_anywhere_it_is_refused_or_shown(tmp_path: Path, odd: Any) -> None:
    boxes = [[0, 0, 9, 9, "cut"]]
    whole = plain("a", "partial", lost={"area_mm2": 1.0, "fraction_of_tissue": 0.1, "boxes": boxes})
    whole |= {"artefacts": {"pen": 0.1}, "types": {"no type": 3}}
    count = [0]
    changed(whole, None, -1, count)
    records = []
    for at in range(2, count[0] + 1):
        with contextlib.suppress(NotARecord, UsageError):  # the version of a newer format
            records.append(parse_record(changed(whole, odd, at, [0]), tmp_path / "a"))
    assert len(records) < count[0] - 1
    page = Page(render_report([*records, record("good")], {}, "odd"))
    assert any("good.svs" in text for text in page.text)
    _, path = write_cohort(tmp_path, [*records, record("good")])
    table = pq.read_table(path).to_pylist()
    assert len(table) == len(records) + 1
    assert table[-1]["nuclei_per_mm2"] == pytest.approx(3086.4)
    assert sum(row["nuclei"] == 123456 for row in table) >= len(records)  # all but one whose nuclei are others


@pytest.mark.parametrize("kind", ["pipe", "bomb", "text", "elsewhere"])
def test_a_thumbnail_of_a_stranger_is_left_out(tmp_path: Path, kind: str) -> None:
    out, name = tmp_path / "out", "a" if kind != "elsewhere" else "../b"
    for folder in (out / "a", tmp_path / "b"):
        folder.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "b" / "thumbnail.png")
    if kind == "pipe":
        os.mkfifo(out / "a" / "thumbnail.png")
    elif kind == "bomb":
        Image.new("1", (30000, 9000)).save(out / "a" / "thumbnail.png")
    elif kind == "text":
        (out / "a" / "thumbnail.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    text = write_report(out, [record(name)]).read_text("utf-8")
    assert "data:image/jpeg" not in text


def test_report_is_the_same_again(tmp_path: Path) -> None:
    records = [record("a"), failure("b")]
    first = write_report(tmp_path, records).read_bytes()
    assert write_report(tmp_path, records).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_works_without_script(tmp_path: Path) -> None:
    page = Page(render_report([record("a"), failure("b")], {}, "t"))
    assert not any("hidden" in attributes for _, attributes in page.tags)
    assert len(page.attributes("summary")) >= 2


def test_headings_labels_and_sort_values() -> None:
    page = Page(render_report([record("a"), failure("b")], {}, "t"))
    assert page.attributes("html") == [{"lang": "en"}]
    assert all(heading.get("scope") in ("col", "row") for heading in page.attributes("th"))
    assert all("alt" in image for image in page.attributes("img"))
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    numbers = [cell["data-value"] for cell in page.attributes("td") if "data-value" in cell]
    assert "123456" in {str(value).removesuffix(".0") for value in numbers}
    for value in numbers:
        assert value == "" or np.isfinite(float(str(value)))


def test_slide_level_failure_is_said_beside_the_grade() -> None:
    row = make_row(record("a", grade=as_plain(grade_of(0, 50, failure="only 0.01 mm² of tissue").record())))
    assert row.grade == "Unacceptable"
    assert "only 0.01 mm² of tissue" in row.grade_note
    assert row.grade_note.startswith("automatic, 0 of 50 patches bad")


def test_a_slide_that_is_not_assessed_has_no_badge_and_says_why() -> None:
    grade = expected_grade(np.full(4, 0.9), 4, 0.5, unassessed="There is too little tissue: room for 4 patches.")
    row = make_row(record("a", grade=as_plain(grade.record())))
    assert (row.grade, row.interval) == (None, None)
    assert row.grade_note == "Not assessed: There is too little tissue: room for 4 patches."
    text = " ".join(Page(render_report([record("a", grade=as_plain(grade.record()))], {}, "t")).text)
    assert "1 slide not assessed." in re.sub(r"\s+", " ", text)


def test_the_words_behind_a_grade_are_in_report_and_table(tmp_path: Path) -> None:
    grade = expected_grade(np.full(60, 0.2), 600, 0.5, because="9 out of focus")
    shown = record("a", grade=as_plain(grade.record()))
    row = make_row(shown)
    assert row.grade_note.startswith("automatic, 20% of 60 patches expected bad")
    assert ("Patches", "60 judged of 600") in row.details
    assert "9 out of focus" in dict(row.details)["Grade in words"]
    assert "9 out of focus" in cohort_table([shown]).column("grade_words")[0].as_py()


def test_interval_is_to_scale() -> None:
    row = make_row(record("a", grade=as_plain(grade_of(15, 150).record())))
    assert row.interval is not None
    assert row.interval.point == pytest.approx(30.0)  # 0.1 of 1/3
    assert row.interval.low < 30.0 < row.interval.high
    assert not row.interval.beyond
    far = make_row(record("a", grade=as_plain(grade_of(120, 150).record()))).interval
    assert far is not None
    assert far.beyond
    assert far.point is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.25, "4.2 s"), (59.0, "59.0 s"), (185.4, "3 min 05 s"), (7800.0, "2 h 10 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- overlay --------------------------------------------------------------------------------------------------


class FlatSlide:
    """Stands in for a slide: every lattice pixel has the value of its column."""

    def scale(self, mpp: float) -> Scale:
        return Scale(mpp / 0.25)

    def require_mpp(self) -> Any:
        return type("Mpp", (), {"value": 0.25})

    def read_window(self, window: Window, scale: Scale) -> np.ndarray:
        row = (np.arange(window.x, window.x1) % 256).astype(np.uint8)
        return np.repeat(np.broadcast_to(row, window.shape)[..., None], 3, axis=2)


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Nuclei:
    return Nuclei(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float), np.array([0, 4]))


def test_a_line_lies_on_the_pixels_edge() -> None:
    image = draw_outlines(np.zeros((20, 20, 3), np.uint8), rectangle(5, 4, 15, 12), (255, 0, 0), 2.0)
    red = image[..., 0]
    assert red[8, 4] == red[8, 5] == 255  # the two pixels beside x = 5
    assert red[8, 3] == red[8, 6] == 0
    assert red[3, 10] == red[4, 10] == 255
    assert red[2, 10] == red[5, 10] == 0
    assert red[11, 10] == red[12, 10] == 255
    assert not image[..., 1:].any()


def test_a_thin_line_is_shared_by_both_sides() -> None:
    red = draw_outlines(np.zeros((20, 20, 3), np.uint8), rectangle(5, 4, 15, 12), (200, 0, 0), 1.0)[..., 0]
    assert red[8, 4] == red[8, 5] == 100
    half = draw_outlines(np.zeros((20, 20, 3), np.uint8), rectangle(5.5, 4.5, 15.5, 12.5), (200, 0, 0), 1.0)[..., 0]
    assert half[8, 5] == 200
    assert half[8, 4] == half[8, 6] == 0


def test_overlay_places_level_0_coordinates() -> None:
    nuclei = Nuclei.concatenate([rectangle(108, 104, 116, 112), rectangle(900, 900, 910, 910)])
    image = render_overlay(FlatSlide(), nuclei, Box(100, 100, 120, 116), 0.5, zoom=4, color=(0, 255, 0))  # type: ignore[arg-type]
    assert image.shape == (32, 40, 3)
    untouched = np.repeat(np.arange(50, 60), 4)
    assert np.array_equal(image[0, :, 0], untouched)
    green = (image == (0, 255, 0)).all(axis=2)
    # x 108 is lattice 54, 4 pixels into the window, 16 into the picture.
    assert np.flatnonzero(green[16]).tolist() == [15, 16, 31, 32]
    assert np.flatnonzero(green[:, 24]).tolist() == [7, 8, 23, 24]


def test_overlay_colours_and_input_stay_apart() -> None:
    nuclei = Nuclei.concatenate([rectangle(-50, -50, -40, -40), rectangle(4, 4, 8, 8), rectangle(-3, -3, 2, 2)])
    colors = np.array([[1, 1, 1], [255, 0, 0], [0, 0, 255]], dtype=np.uint8)
    image = render_overlay(FlatSlide(), nuclei, Box(0, 0, 12, 12), color=colors)  # type: ignore[arg-type]
    assert image[6, 4].tolist() == [255, 0, 0]
    assert image[0, 2].tolist() == [0, 0, 255]
    blank = np.zeros((9, 9, 3), np.uint8)
    draw_outlines(blank, rectangle(2, 2, 5, 5))
    assert not blank.any()


def test_overlay_refuses_what_makes_no_picture(tmp_path: Path) -> None:
    none = Nuclei.empty()
    with pytest.raises(UsageError, match="nothing to draw"):
        render_overlay(FlatSlide(), none, Box(5, 5, 5, 9))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="megapixels"):
        render_overlay(FlatSlide(), none, Box(0, 0, 90000, 90000))  # type: ignore[arg-type]
    save_overlay(FlatSlide(), none, Box(0, 0, 30, 20), tmp_path / "o.png", zoom=2)  # type: ignore[arg-type]
    assert Image.open(tmp_path / "o.png").size == (60, 40)


# --- thumbnail ------------------------------------------------------------------------------------------------


def test_thumbnail_size_keeps_the_shape_and_enlarges_nothing() -> None:
    assert thumbnail_size(np.zeros((1500, 3000, 3), np.uint8), Scale(32.0)) == ((1024, 512), 32.0 * 3000 / 1024)
    assert thumbnail_size(np.zeros((30, 50, 3), np.uint8), Scale(32.0)) == ((50, 30), 32.0)
    assert thumbnail_size(np.zeros((1, 5000, 3), np.uint8), Scale(8.0))[0] == (1024, 1)


def test_counts_and_density(tmp_path: Path) -> None:
    path = _nuclei(tmp_path, [(10, 10), (12, 14), (95, 10), (399, 199)])
    counts = count_nuclei_per_pixel(path, (4, 8), 50.0)
    assert counts.sum() == 4
    assert counts[0, 0] == 2
    assert counts[0, 1] == 1
    assert counts[3, 7] == 1
    even = np.full((80, 80), 3)
    assert density_per_mm2(even, 10.0)[40, 40] == pytest.approx(3 / 1e-4)
    half = np.zeros((80, 80), dtype=bool)
    half[:, :40] = True
    shown = density_per_mm2(np.where(half, 3, 0), 10.0, half)
    assert shown[40, 39] == pytest.approx(3 / 1e-4, rel=1e-6)  # no darker at the tissue's edge
    assert not shown[:, 40:].any()


def test_thumbnail_shows_tissue_density_and_loss() -> None:
    overview = np.full((400, 600, 3), 240, np.uint8)
    tissue = np.zeros((100, 150), dtype=bool)
    tissue[20:80, 20:70] = True
    counts = np.zeros((400, 600), dtype=np.int64)
    counts[100:300, 100:150] = 1
    plain = np.asarray(render_thumbnail(overview, Scale(32.0), 0.25))
    assert (plain[:400] == 240).all()
    image = np.asarray(
        render_thumbnail(
            overview, Scale(32.0), 0.25,
            tissue=tissue, tissue_scale=Scale(128.0), counts=counts, lost=[[16000, 3200, 16640, 3840, "x"]],
        )
    )  # fmt: skip
    assert image[200, 80].tolist() == image[80, 200].tolist() != [240, 240, 240]  # outline at 20 × 4
    assert image[200, 400].tolist() == [240, 240, 240]  # outside
    assert image[200, 125, 2] < image[200, 250, 2] <= 240  # dense against empty tissue
    assert image[100, 500].tolist() == [211, 47, 47]
    assert np.array_equal(image, np.asarray(render_thumbnail(
        overview, Scale(32.0), 0.25,
        tissue=tissue, tissue_scale=Scale(128.0), counts=counts, lost=[[16000, 3200, 16640, 3840, "x"]],
    )))  # fmt: skip


def test_small_slides_show_outlines_large_ones_density(tmp_path: Path) -> None:
    parquet = _nuclei(tmp_path, [(200, 200)])
    overview = np.full((400, 400, 3), 240, np.uint8)
    write_thumbnail(tmp_path / "fine.png", overview, Scale(1.0), 0.5, nuclei_parquet=parquet)
    fine = np.asarray(Image.open(tmp_path / "fine.png"))[:400]
    assert (fine[200, 180:220] != 240).any()
    assert fine[200, 200].tolist() == [240, 240, 240]  # an outline leaves the inside alone
    write_thumbnail(tmp_path / "coarse.png", overview, Scale(32.0), 0.25, nuclei_parquet=parquet)
    coarse = np.asarray(Image.open(tmp_path / "coarse.png"))[:400]
    assert coarse[6, 6].tolist() != [240, 240, 240]
    before = (tmp_path / "coarse.png").read_bytes()
    write_thumbnail(tmp_path / "coarse.png", overview, Scale(32.0), 0.25, nuclei_parquet=parquet)
    assert (tmp_path / "coarse.png").read_bytes() == before


def test_lost_areas_outside_or_tiny_do_no_harm() -> None:
    overview = np.full((40, 60, 3), 240, np.uint8)
    boxes = [[-500, -500, -100, -100, "out"], [1e9, 1e9, 2e9, 2e9, "out"], [640, 640, 641, 641, "tiny"]]
    image = np.asarray(render_thumbnail(overview, Scale(32.0), 0.25, lost=boxes))
    assert image[20, 20].tolist() == [211, 47, 47]


def test_thumbnail_without_nuclei_or_tissue(tmp_path: Path) -> None:
    with NucleiWriter(tmp_path / "n.parquet", {}, {}):
        pass
    overview = np.full((400, 400, 3), 240, np.uint8)
    for scale in (Scale(1.0), Scale(32.0)):
        write_thumbnail(
            tmp_path / "t.png", overview, scale, 0.5,
            tissue=np.zeros((400, 400), dtype=bool), nuclei_parquet=tmp_path / "n.parquet",
        )  # fmt: skip
        assert Image.open(tmp_path / "t.png").size == (400, 430)


def _nuclei(folder: Path, centres: list[tuple[float, float]]) -> Path:
    path = folder / "nuclei.parquet"
    with NucleiWriter(path, {}, {}) as writer:
        writer.write(Nuclei.concatenate([rectangle(x - 8, y - 8, x + 8, y + 8) for x, y in centres]))
    return path


def _folder(out: Path, name: str) -> Path:
    folder = out / name
    folder.mkdir()
    return folder
