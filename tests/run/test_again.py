"""A world that changed since: slides moved, touched, copied, results damaged; in one process, on one cluster."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import wsiseg.results.plan as plan
from wsiseg.errors import EnvironmentFault, SlideError, UsageError, WorkerDied
from wsiseg.evaluate.compare import find_sources
from wsiseg.interop.export import export_run
from wsiseg.run.events import Event, Note, Unchanged
from wsiseg.run.outcome import CohortResult
from wsiseg.run.pipeline import segment_slides, write_reports
from wsiseg.run.schedule import SerialExecutor
from wsiseg.testing import write_slide
from wsiseg.tiles.request import SegmentOptions
from wsiseg.train.source import Frame
from wsiseg.train.sources.run import RunSource

SIDE = 640  # of which a tile covers 512
OUTPUTS = ("nuclei.parquet", "patches.parquet", "thumbnail.png")


@pytest.fixture(autouse=True, scope="module")
def one_tile_a_batch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_BATCH_PX", 1)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of four tiles."""
    path = tmp_path_factory.mktemp("source") / "s.svs"
    write_slide(path, width=SIDE, height=SIDE, layout="dense", seed=4)
    return path


@pytest.fixture(scope="module")
def clean(source: Path, one_tile_a_batch: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its results, never changed."""
    out = tmp_path_factory.mktemp("clean")
    assert run([source], out)[0].exit_code == 0
    return out / "s"


@pytest.fixture(scope="module")
def begun(source: Path, one_tile_a_batch: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of it leaves that was killed before its last stages, never changed."""
    out = tmp_path_factory.mktemp("begun")
    stopped([source], out, "label-pyramid")
    return out


@pytest.fixture
def slide(source: Path, tmp_path: Path) -> Path:
    """A copy to play with."""
    path = tmp_path / "in" / "s.svs"
    path.parent.mkdir()
    shutil.copy(source, path)
    return path


class Watched(SerialExecutor):
    """Does something before the first task of a name; ``Watched(name, stop)`` stops there like a kill."""

    def __init__(self, task: str, action: Callable[[], object]) -> None:
        super().__init__()
        self.task, self.action, self.done = task, action, False

    def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> Any:
        if name == self.task and not self.done:
            self.done = True
            self.action()
        return super().submit(name, function, argument, urgent)


def stop() -> None:
    raise KeyboardInterrupt


def run(slides: list[Path], out: Path, executor: Any = None, **settings: Any) -> tuple[CohortResult, list[Event]]:
    events: list[Event] = []
    options = SegmentOptions("classical", tile=256, **settings)
    return segment_slides(slides, out, options, executor or SerialExecutor(), events.append), events


def stopped(slides: list[Path], out: Path, task: str, **settings: Any) -> Path:
    """A run that was killed before a task; the work folder of its slide."""
    with pytest.raises(KeyboardInterrupt):
        run(slides, out, Watched(task, stop), **settings)
    (work,) = out.glob(".work/*/*")
    return work


def notes(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "slide.json").read_text())
    return found


def same(first: Path, second: Path) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in OUTPUTS)


def move(slide: Path, to: Path) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    slide.rename(to)
    return to


# a slide that was moved


@pytest.mark.parametrize("task", ["segment-batch", "stitch-slide", "publish-slide"])
def test_a_slide_moved_after_a_stop_goes_on_where_it_is_now(
    slide: Path, clean: Path, tmp_path: Path, task: str
) -> None:
    stopped([slide], tmp_path / "out", task)
    now = move(slide, tmp_path / "elsewhere" / "s.svs")
    result, events = run([now], tmp_path / "out")
    assert result.exit_code == 0
    assert result.tiles_computed == (4 if task == "segment-batch" else 0)
    assert notes(events) == []
    assert same(clean, tmp_path / "out" / "s")
    assert record(tmp_path / "out" / "s")["slide"]["path"] == str(now)


def test_a_run_goes_on_from_another_folder(
    slide: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(slide.parent)
    stopped([Path("s.svs")], Path("../out"), "stitch-slide")
    monkeypatch.chdir(tmp_path)
    result, _ = run([Path("in/s.svs")], Path("out"))
    assert (result.exit_code, result.tiles_computed) == (0, 0)
    assert result.report == Path("out/report.html")
    assert same(clean, tmp_path / "out" / "s")
    assert record(tmp_path / "out" / "s")["slide"]["path"] == str(slide)


def test_what_is_said_of_the_pixels_is_the_current_commands(slide: Path, tmp_path: Path) -> None:
    mpp = record_of_mpp(slide)
    table = tmp_path / "table.csv"
    table.write_text(f"slide,mpp\ns,{mpp}\n")
    stopped([slide], tmp_path / "out", "stitch-slide", mpp_table=table)
    table.unlink()
    result, _ = run([slide], tmp_path / "out", mpp=mpp)
    assert (result.exit_code, result.tiles_computed) == (0, 0)
    assert result.records[0].slide.mpp_source == "option"


def record_of_mpp(slide: Path) -> float:
    from wsiseg.slide import open_slide

    with open_slide(slide) as opened:
        return opened.require_mpp().value


@pytest.mark.parametrize("name", ["s.svs", "renamed.svs"])
def test_a_slide_moved_between_two_runs_is_the_same_slide(
    slide: Path, clean: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    run([slide], out)
    now = move(slide, tmp_path / "moved" / name)
    for _ in range(2):
        result, events = run([now], out)
        assert (result.tiles_computed, sum(isinstance(e, Unchanged) for e in events)) == (0, 1)
        assert [entry.id for entry in result.records] == ["s"]
        assert record(out / "s")["slide"]["path"] == str(now)
        assert record(out / "s")["slide"]["name"] == name
        assert pq.read_table(out / "cohort.parquet").column("path").to_pylist() == [str(now)]
    assert same(clean, out / "s")
    with pytest.raises(UsageError, match="/s: holds results of other settings: tissue_only True instead of False"):
        run([now], out, tissue_only=False)


def test_a_copy_is_a_slide_of_its_own_and_so_is_another_of_the_same_name(slide: Path, tmp_path: Path) -> None:
    out, copy, other = tmp_path / "out", tmp_path / "copy" / "s.svs", tmp_path / "other" / "s.svs"
    run([slide], out)
    for path in (copy, other):
        path.parent.mkdir()
    shutil.copy(slide, copy)
    result, _ = run([copy], out)  # the first one is still there
    assert (result.tiles_computed, len(list(out.glob("*/slide.json")))) == (4, 2)
    slide.unlink()
    write_slide(other, width=SIDE, height=SIDE, layout="dense", seed=5)
    result, _ = run([other], out)
    assert (result.tiles_computed, len(list(out.glob("*/slide.json")))) == (4, 3)


def test_two_copies_of_a_slide_that_is_gone_do_not_share_its_results(slide: Path, tmp_path: Path) -> None:
    out, copies = tmp_path / "out", [tmp_path / name / "s.svs" for name in "ab"]
    run([slide], out)
    for copy in copies:
        copy.parent.mkdir()
        shutil.copy(slide, copy)
    slide.unlink()
    result, _ = run(copies, out)
    assert result.tiles_computed == 4
    assert result.records[0].id == "s"
    assert result.records[1].id != "s"
    assert [entry.slide.path for entry in result.records] == [str(copy) for copy in copies]


# a slide that was touched


@pytest.mark.parametrize("how", ["touched", "copied back"])
def test_a_slide_whose_content_is_the_same_is_the_same(slide: Path, clean: Path, tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"

    def change() -> None:
        if how == "copied back":
            content = slide.read_bytes()
            slide.unlink()
            slide.write_bytes(content)
        os.utime(slide, ns=(1, 1))

    assert run([slide], out)[0].exit_code == 0
    shutil.rmtree(out)
    change()
    result, _ = run([slide], out)  # in the same process, which has had it open
    assert (result.exit_code, result.tiles_computed) == (0, 4)
    shutil.rmtree(out)
    assert run([slide], out, Watched("stitch-slide", change))[0].exit_code == 0
    assert same(clean, out / "s")


def test_a_slide_whose_content_changed_is_computed_again_and_said(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run([slide], out)
    before = record(out / "s")
    write_slide(slide, width=SIDE, height=SIDE, layout="dense", seed=6)
    with pytest.raises(UsageError, match="tissue_only True instead of False"):
        run([slide], out, tissue_only=False)
    result, events = run([slide], out)
    assert (result.exit_code, result.tiles_computed) == (0, 4)
    assert notes(events) == ["the slide's content has changed since it was segmented: computed again"]
    assert record(out / "s")["slide"]["fingerprint"] != before["slide"]["fingerprint"]


# what was damaged meanwhile


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [flip, cut, empty])
@pytest.mark.parametrize(
    ("name", "computed", "note"),
    [
        ("parts/*.arrow", 1, "1 parts of an earlier run were damaged: computed again"),
        ("plan.json", 4, "what an earlier run had begun is damaged or of another version: begun again"),
        ("tissue.npz", 4, "what an earlier run had begun is damaged or of another version: begun again"),
        ("stitch.json", 0, ""),
        ("result/nuclei.parquet", 0, ""),
    ],
)
def test_a_resumption_does_not_trust_what_was_damaged(
    source: Path,
    begun: Path,
    clean: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    name: str,
    computed: int,
    note: str,
) -> None:
    shutil.copytree(begun, tmp_path / "out")
    (work,) = (tmp_path / "out").glob(".work/*/*")
    damage(sorted(work.glob(name))[0])
    result, events = run([source], tmp_path / "out")
    assert (result.exit_code, result.tiles_computed) == (0, computed)
    assert notes(events) == [note] * bool(note)
    assert same(clean, tmp_path / "out" / "s")


def test_a_plan_of_another_version_is_not_gone_on_with(slide: Path, clean: Path, tmp_path: Path) -> None:
    from wsiseg.core.sealed import read_sealed_json, write_sealed_json

    work = stopped([slide], tmp_path / "out", "stitch-slide")
    value = read_sealed_json(work / "plan.json")
    assert value is not None
    write_sealed_json(work / "plan.json", {key: item for key, item in value.items() if key != "band_px"})
    result, _ = run([slide], tmp_path / "out")
    assert (result.exit_code, result.tiles_computed) == (0, 4)
    assert same(clean, tmp_path / "out" / "s")


@pytest.mark.parametrize("name", [*OUTPUTS, "maps.zarr"])
@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_a_finished_result_that_is_not_whole_is_computed_again(
    slide: Path, clean: Path, tmp_path: Path, name: str, how: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(clean, out / "s")
    place = {**record(clean)["slide"], "path": str(slide)}
    (out / "s" / "slide.json").write_text(json.dumps({**record(clean), "slide": place}))
    path = out / "s" / name
    if name == "maps.zarr":
        path = next(file for file in sorted(path.rglob("*")) if file.is_file() and file.name == "0")
        path.unlink() if how == "removed" else cut(path)
    else:
        path.unlink() if how == "removed" else flip(path)
    result, events = run([slide], out)
    assert (result.exit_code, result.tiles_computed) == (0, 4)
    (note,) = notes(events)
    assert name in note
    assert same(clean, out / "s")
    assert run([slide], out)[0].tiles_computed == 0


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_damaged_nuclei_are_not_exported(clean: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    shutil.copytree(clean, tmp_path / "s")
    damage(tmp_path / "s" / "nuclei.parquet")
    with pytest.raises(SlideError, match=r"nuclei\.parquet: is missing, or not as it was written"):
        list(export_run(tmp_path, "geojson", None))
    assert [p.name for p in tmp_path.rglob("*.geojson*")] == []


@pytest.mark.parametrize("task", ["segment-batch", "stitch-slide", "label-pyramid", "publish-slide"])
def test_a_work_folder_that_vanishes_costs_its_slide_alone(
    slide: Path, clean: Path, tmp_path: Path, task: str
) -> None:
    out, second = tmp_path / "out", tmp_path / "in" / "t.svs"
    shutil.copy(slide, second)
    vanish = Watched(task, lambda: shutil.rmtree(out / ".work" / "s"))
    result, _ = run([slide, second], out, vanish)
    assert [entry.status for entry in result.records] == ["failed", "complete"]
    assert "during the run" in result.records[0].error.message
    assert record(out / "t")["nuclei"] == record(clean)["nuclei"]
    assert run([slide, second], out)[0].exit_code == 0


def test_a_work_folder_that_vanishes_with_a_worker_costs_its_slide_alone(slide: Path, tmp_path: Path) -> None:
    out, second = tmp_path / "out", tmp_path / "in" / "t.svs"
    shutil.copy(slide, second)

    class Dying(SerialExecutor):
        def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> Any:
            if name == "segment-batch" and argument.work.path.parent.name == "s":
                shutil.rmtree(out / ".work" / "s", ignore_errors=True)
                return super().submit(name, die, argument, urgent)
            return super().submit(name, function, argument, urgent)

    result, _ = run([slide, second], out, Dying())
    assert [entry.status for entry in result.records] == ["failed", "complete"]


def die(_: object) -> None:
    raise WorkerDied("killed")


# what is somebody else's


def test_what_is_in_the_way_is_refused_before_anything_is_computed(slide: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "in" / "t.svs"
    shutil.copy(slide, other)
    (out / "t").mkdir(parents=True)
    (out / "t" / "precious.txt").write_text("mine")
    with pytest.raises(EnvironmentFault, match=r"out/t: is there already and is no result of wsiseg"):
        run([slide, other], out)
    assert [p.name for p in out.rglob("*") if p.name != ".lock"] == ["t", "precious.txt"]


def test_files_of_the_user_in_a_result_are_not_replaced_with_it(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run([slide], out)
    (out / "s" / "notes.txt").write_text("mine")
    assert run([slide], out)[0].tiles_computed == 0
    with pytest.raises(EnvironmentFault, match=r"out/s: has to be computed again, but holds 'notes\.txt'"):
        run([slide], out, tissue_only=False, overwrite=True)
    assert (out / "s" / "notes.txt").read_text() == "mine"
    assert record(out / "s")["specification"]["tissue_only"] is True


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: {**r, "version": 99},
        lambda r: {},
        lambda r: [],
        lambda r: {k: v for k, v in r.items() if k not in ("status", "slide")},
        lambda r: {**r, **dict.fromkeys(("slide", "grade", "specification"), "x"), "lost": [], "tiles": 3},
        lambda r: {**r, "id": "../../../x"},
        lambda r: {**r, "slide": {**r["slide"], "name": "../../../x"}},
        lambda r: {**r, "slide": {**r["slide"], "bounds": None}},
        lambda r: {**r, "timings_s": {"total": "x"}, "seams": {"adopted": "many"}},
    ],
)
def test_an_odd_record_is_nobodys_internal_error(
    clean: Path, slide: Path, tmp_path: Path, edit: Callable[[Any], Any]
) -> None:
    out = tmp_path / "a" / "b" / "out"
    shutil.copytree(clean, out / "s")
    shutil.copytree(clean, out / "t")
    (out / "t" / "slide.json").write_text(json.dumps({**record(clean), "id": "t"}))
    (out / "s" / "slide.json").write_text(json.dumps(edit(record(clean))))
    before = (out / "s" / "slide.json").read_bytes()
    frame = Frame(0.5, 64)
    for use in (
        lambda: write_reports(out),
        lambda: list(export_run(out, "geojson", tmp_path / "a" / "b" / "ex")),
        lambda: list(export_run(out, "quip-csv", tmp_path / "a" / "b" / "ex")),
        lambda: list(export_run(out / "s", "geojson", None)),
        lambda: find_sources(out),
        lambda: RunSource(out).describe(frame),
        lambda: run([slide], out),
    ):
        try:
            use()
        except (UsageError, EnvironmentFault) as error:
            assert len(str(error).splitlines()) <= 3  # noqa: PT017
    assert (out / "s" / "slide.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "in"]
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} <= {"out", "ex"}


# a cluster that stays up


@pytest.mark.slow
def test_a_cluster_that_stays_up_sees_the_world_as_it_is(
    slide: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsiseg.run.cluster import ClusterOptions, open_executor

    with warnings.catch_warnings(), open_executor(ClusterOptions(None, 1, "cpu", "127.0.0.1:0")) as executor:
        monkeypatch.chdir(slide.parent)  # the worker stays where it was started
        assert run([Path("s.svs")], Path("out"), executor)[0].exit_code == 0
        for change in (lambda: os.utime(slide, ns=(1, 1)), lambda: move(slide, tmp_path / "in" / "b" / "s.svs")):
            shutil.rmtree("out")
            change()
            here = next(Path().rglob("*.svs"))
            result, _ = run([here], Path("out"), executor)
            assert (result.exit_code, result.tiles_computed) == (0, 4)
            assert same(clean, tmp_path / "in" / "out" / "s")
        write_slide(here, width=SIDE, height=SIDE, layout="dense", seed=7)
        result, events = run([here], Path("out"), executor)
        assert (result.exit_code, result.tiles_computed) == (0, 4)
        assert len(notes(events)) == 1
