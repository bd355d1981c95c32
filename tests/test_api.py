"""The public face: names of ``wsiseg``, segmenting from Python, progress, a notebook."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import distributed
import pytest

import wsiseg
from wsiseg.errors import EnvironmentFault, MissingMppError, SlideError, UsageError
from wsiseg.results.record import parse_record
from wsiseg.run.cluster import ClusterOptions, open_executor
from wsiseg.run.events import Begun, Event, Note, SlideEnded, StageStarted, Started, TilesDone
from wsiseg.run.outcome import CohortResult, SegmentResult
from wsiseg.run.session import segment
from wsiseg.run.watch import Progress, as_html, watch
from wsiseg.testing import strip_mpp, write_slide
from wsiseg.testing.records import failed_record, finished_record
from wsiseg.tiles.request import SegmentOptions

DOCS = Path(__file__).resolve().parents[1] / "docs"
OPTIONS = SegmentOptions("classical", tile=256)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "a.svs"
    write_slide(path, width=1024, height=1024, seed=1)
    return path


@pytest.fixture(scope="module")
def result(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> SegmentResult:
    return segment(slide, tmp_path_factory.mktemp("out"), OPTIONS, workers=0, progress=False)


# ---------------------------------------------------------------- names


def test_every_public_name_is_there_and_is_what_type_checkers_are_told() -> None:
    assert set(wsiseg._HOMES) == set(wsiseg.__all__)
    told = [
        line.split() for line in Path(wsiseg.__file__).read_text("utf-8").splitlines() if "    from wsiseg" in line
    ]
    names = {}
    for _, module, _, *imported in told:
        for name in " ".join(imported).split(", "):
            attribute, _, alias = name.partition(" as ")
            names[alias or attribute] = getattr(importlib.import_module(module), attribute)
    assert names == {name: getattr(wsiseg, name) for name in wsiseg.__all__}
    assert set(wsiseg.__all__) < set(dir(wsiseg))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = wsiseg.nothing  # type: ignore[attr-defined]


def test_names_are_imported_when_they_are_used() -> None:
    code = """
import sys, wsiseg
assert not {"numpy", "typing", "importlib.metadata"} & set(sys.modules)
wsiseg.open_slide, wsiseg.list_models, wsiseg.SegmentOptions, wsiseg.segment
assert not {"torch", "distributed", "geopandas"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"], check=True)


def test_python_m_wsiseg_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "wsiseg", "--version"], capture_output=True, text=True, check=True)
    assert wsiseg.__version__ in done.stdout


def test_the_page_of_the_api_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "\n".join(
        "" if line.startswith("```") else line for line in (DOCS / "api.md").read_text("utf-8").split("\n")
    )
    page = doctest.DocTestParser().get_doctest(text, {}, "api.md", "docs/api.md", 0)
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(page, out=said.write).failed == 0, said.getvalue()


# ---------------------------------------------------------------- results


def test_a_slides_result(result: SegmentResult) -> None:
    assert (result.id, result.status, result.folder.name) == ("a", "complete", "a")
    assert len(result.nuclei) == result.record.nuclei > 50
    assert result.nuclei.crs is None
    assert result.nuclei is result.nuclei
    assert result.grade is not None
    assert result.grade.grade == "Not assessed"
    assert result.open_slide().width == 1024
    assert repr(result).startswith("<SegmentResult a: ")
    page = result._repr_html_()
    assert page.startswith('<figure><img src="data:image/jpeg;base64,')
    assert len(page) < 200_000


def test_what_a_record_says_is_no_html(tmp_path: Path) -> None:
    error = {"kind": "annotations", "message": "<script>"}
    record = parse_record(failed_record("<b>", error=error), tmp_path / "<b>")
    failed = SegmentResult(tmp_path, record)
    with pytest.raises(SlideError, match="<script>"):
        failed.require_segmented()
    assert failed._repr_html_() == "<figure><figcaption>&lt;b&gt;: failed: &lt;script&gt;</figcaption></figure>"
    assert "<b>" not in CohortResult(tmp_path, tmp_path / "report.html", (record,), 0, 0.0)._repr_html_()


def test_one_slide_raises_its_error_and_leaves_its_record(slide: Path, tmp_path: Path) -> None:
    without = tmp_path / "without.svs"
    write_slide(without, width=512, height=512)
    strip_mpp(without)
    with pytest.raises(MissingMppError, match="mpp"):
        segment(without, tmp_path / "out", OPTIONS, workers=0, progress=False)
    assert (tmp_path / "out" / "without" / "slide.json").exists()
    cohort = segment([without], tmp_path / "out", OPTIONS, workers=0, progress=False)
    assert [one.status for one in cohort] == ["failed"]
    assert cohort["without"].grade is None
    with pytest.raises(SlideError):
        _ = cohort[0].nuclei


def test_a_cohort_is_indexed_by_number_id_and_path(slide: Path, result: SegmentResult) -> None:
    out = result.folder.parent
    cohort = segment([slide], out, OPTIONS, workers=0, progress=False)
    assert (len(cohort), cohort.tiles_computed) == (1, 0)
    assert cohort[0] == cohort["a"] == cohort[slide] == next(iter(cohort)) == result
    with pytest.raises(KeyError, match="'b' among"):
        _ = cohort["b"]
    with pytest.raises(IndexError):
        _ = cohort[1]
    assert list(cohort.table["grade"]) == ["Not assessed"]
    assert cohort.below("Best") == ()
    assert repr(cohort).startswith("<CohortResult 1 slides: 1 complete")


def test_one_path_is_one_slide(slide: Path, tmp_path: Path) -> None:
    for name in ("x.svs", "y.svs"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UsageError, match="names 2 slides; expected one"):
        segment(tmp_path, tmp_path / "out", OPTIONS, workers=0)
    with pytest.raises(UsageError, match="no such file"):
        segment(tmp_path / "z.svs", tmp_path / "out", OPTIONS, workers=0)


# ---------------------------------------------------------------- where it runs


@pytest.mark.slow
def test_inside_a_running_event_loop(slide: Path, result: SegmentResult, tmp_path: Path) -> None:
    async def cell() -> SegmentResult:
        return segment(slide, tmp_path, OPTIONS, workers=1, device="cpu", progress=False)

    found = asyncio.run(cell())
    assert (found.folder / "nuclei.parquet").read_bytes() == (result.folder / "nuclei.parquet").read_bytes()


def test_on_a_client_that_stays_open(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        segment(slide, tmp_path, OPTIONS, scheduler=client, device="cpu", progress=False)
        assert client.submit(abs, -1).result() == 1
    with pytest.raises(EnvironmentFault, match="the Client is closed"):
        segment(slide, tmp_path, OPTIONS, scheduler=client, progress=False)
    monkeypatch.setattr(distributed.Client, "asynchronous", property(lambda self: True))
    with pytest.raises(UsageError, match="asynchronous Client"):
        segment(slide, tmp_path, OPTIONS, scheduler=client, progress=False)


def test_a_script_that_its_workers_would_run_again_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed, "LocalCluster", fail)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/x/mine.py", raising=False)
    with (
        pytest.raises(
            EnvironmentFault, match=r"Nanny failed to start\.\nEach worker imports mine\.py: .*workers=0"
        ),
        open_executor(ClusterOptions(workers=1, device="cpu")),
    ):
        pass


def test_an_executor_is_for_many_calls(slide: Path, result: SegmentResult) -> None:
    with open_executor(ClusterOptions(workers=0)) as executor:
        for _ in range(2):
            assert segment(slide, result.folder.parent, OPTIONS, executor=executor, progress=False) == result
        with pytest.raises(UsageError, match="give no workers="):
            segment(slide, result.folder.parent, OPTIONS, executor=executor, workers=2)


# ---------------------------------------------------------------- progress


def test_events_come_in_order(slide: Path, tmp_path: Path) -> None:
    heard: list[Event] = []
    segment(slide, tmp_path, OPTIONS, workers=0, progress=heard.append)
    assert heard[0] == Started(1)
    kinds = [type(event) for event in heard if not isinstance(event, Note)]  # of the record: said at its end
    assert kinds.index(Begun) < kinds.index(TilesDone) < kinds.index(SlideEnded) == len(kinds) - 1
    stages = [event.stage for event in heard if isinstance(event, StageStarted)]
    assert stages[0] == "plan-slide"
    assert stages[-1] == "publish-slide"
    (*_, last) = [event for event in heard if isinstance(event, TilesDone)]
    assert last.done == last.total == last.computed == 4


PARTIAL = parse_record({**finished_record("a", status="partial"), "nuclei": 1200}, Path("a"))
FAILED = parse_record(failed_record("<b>"), Path("<b>"))
EVENTS = (
    Started(2), StageStarted("a", "plan-slide"), Begun("a", 8), TilesDone("a", 4, 8, 1000, 4),
    Note("a", "odd\x1b[2J"), SlideEnded("a", PARTIAL), SlideEnded("<b>", FAILED),
)  # fmt: skip


def test_progress_in_words() -> None:
    progress, seen = Progress(), []
    for event in EVENTS:
        progress.hear(event)
        seen.append(str(progress))
    assert seen[1:4] == ["[0/2] a: plan-slide", "[0/2] a: 8 tiles", "[0/2] a: 4 of 8 tiles, 1,000 nuclei"]
    assert progress.lines == ["a: odd\x1b[2J", "a: 1,200 nuclei, Best, partial", "<b>: failed: no slide"]
    page = as_html(progress)
    assert '<progress value="0.500">' in page
    assert "&lt;b&gt;: failed" in page
    assert "\x1b" not in page


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_on_standard_error(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with watch() as listen:
        for event in EVENTS:
            listen(event)
    text = stream.getvalue()
    assert "odd\x1b" not in text
    assert ("\r" in text) == terminal
    assert "<b>: failed: no slide\n" in text
    assert "2 slides in 0 s" in text or not terminal


def test_progress_in_a_notebook_is_one_display_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = SimpleNamespace(update=shown.append)
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    display = SimpleNamespace(HTML=str, display=lambda *_, **__: handle)
    monkeypatch.setitem(sys.modules, "IPython.display", display)

    def stop() -> None:
        with watch() as listen:
            listen(EVENTS[2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert "stopped: a: 8 tiles" in shown[-1]


@pytest.mark.slow
def test_the_three_lines_run_in_a_notebook(slide: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [
        f"import os, sys; sys.path[:0] = {sys.path!r}; os.chdir({str(tmp_path)!r})",
        "import wsiseg",
        "classical = wsiseg.SegmentOptions('classical')",
        f"result = wsiseg.segment({str(slide)!r}, out='results', options=classical, workers=0)",
        "result.nuclei",
        "result",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    *_, run, nuclei, last = notebook.cells
    (bar,) = run.outputs
    assert '<progress value="1.000"></progress> 1 slide in' in bar.data["text/html"]
    assert "<table" in nuclei.outputs[0].data["text/html"]
    assert "<figure><img" in last.outputs[0].data["text/html"]
