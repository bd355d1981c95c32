"""The report of a cohort of made-up slides: its size, the seconds to make it, and what it asks for.

    python benchmarks/report.py [--slides 1000] [--browser chromium] [--out FOLDER] [--json]

Records, verdicts and drawn pictures lie in a results folder as a run leaves them; nothing is segmented. Every tenth
slide differs (out of focus, another stain, many bad patches), every fiftieth failed, and some names mean harm.
Pictures are drawn all over, so that they are larger than those of most real slides. With ``--browser`` the page is
opened in a headless Chromium: what it requests, what its console says, how long loading, sorting, filtering take.
"""

from __future__ import annotations

import argparse
import asyncio
import html.parser
import io
import json
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tornado.websocket import websocket_connect

from wsiseg.artefacts.kinds import KINDS
from wsiseg.core.columnfile import as_table, parquet_bytes
from wsiseg.core.typed import as_plain
from wsiseg.qc.rubric import expected_grade
from wsiseg.report.actions import write_actions
from wsiseg.report.cohort import write_cohort
from wsiseg.report.examples import choose_examples
from wsiseg.report.gallery import ARTEFACTS, OVERVIEW, QUALITY, THUMBNAIL
from wsiseg.report.html import write_report
from wsiseg.report.slidepage import write_slide_pages
from wsiseg.results.folder import PICTURES, read_records
from wsiseg.testing.images import stained
from wsiseg.testing.records import failed_record, finished_record

NASTY = ("<script>alert(1)", '"><img src=x onerror=alert(1)>', "{{7*7}}", "naïve 漢字", "=1+1")
PATCHES = 60
DRAWINGS = 6  # of which the slides have one each


def write_cohort_folder(out: Path, slides: int) -> None:
    """The results of so many made-up slides."""
    drawn = [np.tile(stained(seed, 512, 150), (2, 2, 1)) for seed in range(DRAWINGS)]
    thumbnails, maps = [_file(one, "PNG") for one in drawn], [_file(one[:800, :800], "JPEG") for one in drawn]
    small = [_file(one[::2, ::2], "JPEG") for one in drawn]
    patches = [_file(one[:512, :512], "JPEG") for one in drawn]
    for number in range(slides):
        name = f"slide-{number:04d}"
        folder = out / name
        folder.mkdir(parents=True)
        if number % 50 == 49:
            (folder / "slide.json").write_text(json.dumps(failed_record(name)))
            continue
        (folder / "slide.json").write_text(json.dumps(_record(number, name)))
        (folder / "thumbnail.png").write_bytes(thumbnails[number % DRAWINGS])
        verdicts = _verdicts(number)
        (folder / "patches.parquet").write_bytes(parquet_bytes(as_table(verdicts)))
        (folder / PICTURES).mkdir()
        (folder / PICTURES / THUMBNAIL).write_bytes(small[number % DRAWINGS])
        for picture in (OVERVIEW, QUALITY, ARTEFACTS):
            (folder / PICTURES / picture).write_bytes(maps[number % DRAWINGS])
        for example in choose_examples(verdicts):
            (folder / PICTURES / example.file).write_bytes(patches[(number + example.place) % DRAWINGS])


def _record(number: int, name: str) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    record = finished_record(name, slide=f"{NASTY[number // 10 % 5] if number % 10 == 3 else name}.svs")
    odd = number % 10 == 0
    shift = rng.normal(0, 1, 6)
    record["nuclei"], record["tissue_mm2"] = int(rng.integers(50_000, 800_000)), float(rng.uniform(20, 300))
    record["artefacts"] = {kind: float(rng.exponential(0.01)) for kind in KINDS}
    record["artefacts"]["out_of_focus"] += 0.4 * (odd and number % 20 == 0)
    record["usable_mm2"] = record["tissue_mm2"] * 0.9
    record["slide"]["mpp"], record["specification"]["slide_mpp"] = (0.25 + number % 7 * 1e-4,) * 2
    p_bad = _verdicts(number)["p_bad"]
    grade = expected_grade(p_bad, 400, 0.5, reasons={"uncovered": int(np.sum(p_bad >= 0.5))}, because="for show")
    record["grade"] = as_plain(grade.record())
    record["typical"] = {
        "nuclear_area_um2": 28 * float(np.exp(0.15 * shift[0])) * (4 if number % 100 == 50 else 1),
        "hematoxylin_od": 0.30 + 0.03 * shift[1] + 0.2 * odd,
        "eosin_od": 0.20 + 0.02 * shift[2],
        "detail": 0.80 + 0.05 * shift[3] - 0.4 * (odd and number % 20 == 0),
        "expected_aji": 0.55 + 0.04 * shift[4],
        "score": 0.85 + 0.02 * shift[5],
    }
    stages = ("tissue", "artefacts", "segment", "outside", "stitch", "labels", "grade", "publish", "total")
    record["timings_s"] = {stage: float(rng.uniform(1, 60)) for stage in stages}
    record["notes"] = ["Tissue all over the field: 99.1% of the image counts as tissue."] if odd else []
    return record


def _verdicts(number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    p_bad = rng.beta(1, 20 if number % 10 else 2, PATCHES)
    expected = 0.65 - 0.4 * p_bad
    place = np.arange(PATCHES)
    return {
        "index": place, "x": place % 8 * 1024, "y": place // 8 * 1024,
        "width": np.full(PATCHES, 1024), "height": np.full(PATCHES, 1024),
        "reason": np.where(p_bad >= 0.5, "uncovered", ""), "p_bad": p_bad, "expected_aji": expected,
        "aji_low": expected - 0.1, "aji_high": expected + 0.1,
    }  # fmt: skip


def _file(image: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, quality=80)
    return buffer.getvalue()


class References(html.parser.HTMLParser):
    """What a page would fetch by itself: sources that are not part of it, and style sheets, scripts and frames."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            asked = name in ("src", "srcset", "poster", "data") or (tag == "link" and name == "href")
            if asked and not (value or "").startswith("data:"):
                self.found.append(f"{tag} {name}={value}")


async def watch(browser: str, page: Path) -> dict[str, Any]:
    """Open a page in a headless Chromium: what it requests, what its console says, how long things take."""
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1400,1000", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                target = next(one for one in json.load(answer) if one["type"] == "page")
            return await _measure(target["webSocketDebuggerUrl"], page)
        finally:
            process.terminate()
            process.wait(30)


async def _port(file: Path) -> int:
    for _ in range(300):
        if file.exists() and file.read_text():
            return int(file.read_text().split()[0])
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{file} did not appear: does the browser start?")


async def _measure(url: str, page: Path) -> dict[str, Any]:
    socket = await websocket_connect(url, max_message_size=1 << 28)
    events: list[dict[str, Any]] = []
    number = 0

    async def call(method: str, **params: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        await socket.write_message(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(await socket.read_message() or "null")
            if message is None:
                raise RuntimeError("the browser has closed the connection")
            if message.get("id") == number:
                return message["result"]
            events.append(message)

    async def milliseconds(action: str) -> float:
        """Of an action, until the page is laid out again."""
        timed = f"const t = performance.now(); {action}; document.body.offsetHeight; return performance.now() - t;"
        answer = await call("Runtime.evaluate", expression=f"(() => {{ {timed} }})()")
        return round(float(answer["result"]["value"]), 1)

    for domain in ("Network", "Page", "Runtime", "Log"):
        await call(f"{domain}.enable")
    started = time.perf_counter()
    await call("Page.navigate", url=page.resolve().as_uri())
    while not any(event["method"] == "Page.loadEventFired" for event in events):
        await call("Runtime.evaluate", expression="1")
        await asyncio.sleep(0.02)
    loaded = time.perf_counter() - started
    type_in = "const s = document.getElementById('{}'); s.value = '{}'; s.dispatchEvent(new Event('input'))"
    result = {
        "load_s": round(loaded, 2),
        "layout_ms": await milliseconds(""),
        "filter_by_name_ms": await milliseconds(type_in.format("search", "slide-09")),
        "filter_by_grade_ms": await milliseconds(type_in.format("grade", "Unacceptable")),
        "clear_ms": await milliseconds("document.getElementById('clear').click()"),
        "sort_by_number_ms": await milliseconds("document.querySelectorAll('.sort')[4].click()"),
        "sort_by_name_ms": await milliseconds("document.querySelectorAll('.sort')[0].click()"),
        "show_all_ms": await milliseconds("document.getElementById('more').click()"),
        "elements": (await call("Runtime.evaluate", expression="document.querySelectorAll('*').length"))["result"][
            "value"
        ],
    }
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    said = [
        e["params"]
        for e in events
        if e["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    ]
    socket.close()
    outside = [one for one in asked if not one.startswith("data:") and one != page.resolve().as_uri()]
    return {**result, "requests": outside, "console": said}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--slides", type=int, default=1000)
    arguments.add_argument("--browser", help="a Chromium, to open the page in")
    arguments.add_argument("--out", type=Path, help="where the cohort is made, and stays; must not exist")
    arguments.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        out = options.out or Path(name) / "cohort"
        write_cohort_folder(out, options.slides)
        seconds = {}
        started = time.perf_counter()
        records = read_records(out)
        seconds["records"] = time.perf_counter() - started
        for what, write in (
            ("tables", write_cohort), ("actions", write_actions), ("slide_pages", write_slide_pages),
            ("slide_pages_again", write_slide_pages), ("report", write_report),
        ):  # fmt: skip
            started = time.perf_counter()
            write(out, records)
            seconds[what] = time.perf_counter() - started
        page, pages = out / "report.html", sorted(out.glob("*/report.html"))
        text = page.read_text("utf-8")
        result: dict[str, Any] = {
            "slides": len(records),
            "report_mb": round(page.stat().st_size / 1e6, 2),
            "thumbnails": text.count("data:image/jpeg"),
            "cohort_csv_mb": round((out / "cohort.csv").stat().st_size / 1e6, 2),
            "slide_page_kb": round(sum(one.stat().st_size for one in pages) / 1e3 / max(1, len(pages)), 1),
            "pictures_kb": round(
                sum(one.stat().st_size for one in out.glob(f"*/{PICTURES}/*")) / 1e3 / max(1, len(pages)), 1
            ),
            **{f"{what}_s": round(value, 2) for what, value in seconds.items()},
            "references": References(text).found,
        }
        if options.browser:
            result |= asyncio.run(watch(options.browser, page))
    if options.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:>20}  {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
