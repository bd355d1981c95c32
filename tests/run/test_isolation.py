"""What a worker's death costs, without a cluster: jobs that split, slides read by a process that may die."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wsiseg.run.pipeline as pipeline
import wsiseg.slide.lethal as lethal
from wsiseg.core.geometry import Scale, Window
from wsiseg.core.typed import as_plain, as_typed
from wsiseg.errors import SlideError, WorkerDied
from wsiseg.qc.blocks import BlockJob
from wsiseg.results.folder import SlideFolder, WorkFolder
from wsiseg.results.job import WorkJob
from wsiseg.run.events import Event, TilesDone
from wsiseg.run.isolation import isolated
from wsiseg.run.publish import publish_job, publish_slide, published_record
from wsiseg.run.schedule import SerialExecutor, Stage, Steps, run_stages
from wsiseg.slide import SlideSource, open_slide
from wsiseg.slide.lethal import Lethal
from wsiseg.testing import write_slide
from wsiseg.tiles.batch import BatchJob

CLASSICAL = "classical"
TILE = Window(256, 256, 256, 256)
LETHAL = Lethal(0, TILE, "reading it crashes: SIGSEGV")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "s.svs"
    write_slide(path, width=1024, height=1024, layout="dense", seed=4, tile=256, levels=(1, 4))
    return path


def run(path: Path, out: Path, executor: SerialExecutor | None = None) -> dict[str, Any]:
    options = pipeline.SegmentOptions(CLASSICAL, tile=256)
    (record,) = pipeline.segment_slides([path], out, options, executor or SerialExecutor()).records
    return record.to_dict()


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Child processes die of level 0's stored tile at ``TILE``."""
    program = tmp_path / "child.py"
    program.write_text(
        "import os, signal\n"
        "from wsiseg.core.geometry import Window\n"
        "from wsiseg.slide import child\n"
        "from wsiseg.slide.readers.tiff import reader as tiff\n"
        "read = tiff.TiffReader.read_level\n"
        "def deadly(self, level, window):\n"
        f"    if level == 0 and window.intersection(Window({TILE.x}, {TILE.y}, 256, 256)).area:\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return read(self, level, window)\n"
        "tiff.TiffReader.read_level = deadly\n"
        "child.main()\n"
    )
    monkeypatch.setattr(lethal, "_PROGRAM", (str(program),))


@pytest.mark.usefixtures("deadly")
def test_a_stored_tile_that_kills_its_reader_is_lost_and_no_other(slide: Path) -> None:
    whole = Window(0, 0, 1024, 1024)
    with open_slide(slide) as intact:
        expected, _ = intact.read_lossy(whole, Scale(1.0))
    with open_slide(slide, guarded=True) as guarded:
        found, lost = guarded.read_lossy(whole, Scale(1.0))
        assert [(part.box.x0, part.box.y0, part.box.x1, part.box.y1) for part in lost] == [(256, 256, 512, 512)]
        assert lost[0].reason == "reading it crashes: SIGSEGV"
        assert guarded.lethal == (LETHAL,)
        assert (found[TILE.within(whole)] == 255).all()
        found[TILE.within(whole)] = expected[TILE.within(whole)]
        assert np.array_equal(found, expected)
        # The overview takes another level, which is intact.
        assert np.array_equal(guarded.overview(8.0)[0], open_slide(slide).overview(8.0)[0])


def test_a_tile_that_is_known_to_kill_is_not_read_again(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SlideSource(str(slide), None)
    with source.open([LETHAL]) as around:
        inner, asked = around._reader._reader, []  # type: ignore[attr-defined]
        read = inner.read_level
        monkeypatch.setattr(inner, "read_level", lambda level, window: asked.append(window) or read(level, window))
        _, lost = around.read_lossy(Window(100, 100, 800, 800), Scale(1.0))
        assert [part.reason for part in lost] == [LETHAL.reason]
        assert sum(window.area for window in asked) == 800 * 800 - 256 * 256
        assert not any(window.intersection(TILE).area for window in asked)
    assert as_typed(json.loads(json.dumps(as_plain(LETHAL))), Lethal) == LETHAL


def test_a_slide_that_kills_in_too_many_places_is_refused(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lethal, "_MOST_DEATHS", 3)

    class Dying:
        description = open_slide(slide).description

        def read_level(self, level: int, window: Window) -> Any:
            raise lethal.ChildDied("SIGFPE")

    with pytest.raises(SlideError, match=r"more than 3 stored tiles .* \(reading it crashes: SIGFPE\)"):
        lethal.GuardedReader(Dying()).read_level(0, Window(0, 0, 1024, 1024))  # type: ignore[arg-type]


class Dies(SerialExecutor):
    """Workers die of tasks that are not alone, and of some that are: what Dask makes known as ``WorkerDied``."""

    def __init__(self, *names: str, until_alone: bool = True) -> None:
        super().__init__()
        self.names, self.until_alone, self.tried = names, until_alone, []

    def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> Any:
        if name in self.names and not getattr(argument, "lost", False):
            self.tried.append((name, argument))
            if not argument.alone or not self.until_alone:
                return super().submit(name, _die, argument, urgent)
        return super().submit(name, function, argument, urgent)


def _die(argument: Any) -> None:
    raise WorkerDied("died")


STAGES = (
    "plan-slide",
    "segment-batch",
    "take-overview",
    "plan-artefacts",
    "find-artefacts",
    "join-artefacts",
    "draw-artefacts",
    "check-outside",
    "stitch-slide",
    "plan-labels",
    "label-map",
    "label-pyramid",
)
STAGES += (
    "plan-opinions",
    "ask-opinions",
    "plan-grading",
    "grade-patches",
    "plan-looks",
    "look-at-scales",
    "plan-examples",
    "draw-examples",
    "draw-thumbnail",
    "publish-slide",
)


@pytest.mark.slow
@pytest.mark.usefixtures("deadly")
def test_every_stage_is_tried_alone_around_the_tile_that_kills(slide: Path, tmp_path: Path) -> None:
    record = run(slide, tmp_path / "out", Dies(*STAGES))
    assert record["status"] == "partial"
    assert record["lost"]["boxes"] == [[256, 256, 512, 512, "reading it crashes: SIGSEGV"]]
    assert record["tiles"]["failed"] == 0
    assert record["nuclei"] > 50
    assert "reading it crashes: SIGSEGV" in record["notes"][-1]
    assert not (tmp_path / "out" / ".work").exists()


def test_patches_that_kill_whatever_is_done_are_lost(slide: Path, tmp_path: Path) -> None:
    record = run(slide, tmp_path, Dies("grade-patches", until_alone=False))
    assert record["status"] == "complete"
    assert record["grade"]["reasons"] == {"lost": record["grade"]["patches"]}


def test_a_block_that_kills_whatever_is_done_has_no_artefacts(slide: Path, tmp_path: Path) -> None:
    record = run(slide, tmp_path, Dies("find-artefacts", until_alone=False))
    assert record["status"] == "complete"
    assert record["artefacts"]["out_of_focus"] == 0


def test_a_check_of_the_tissue_that_kills_whatever_is_done_is_left_out(slide: Path, tmp_path: Path) -> None:
    record = run(slide, tmp_path, Dies("check-outside", until_alone=False))
    assert record["status"] == "complete"
    assert record["outside"] is None


def test_what_is_tried_instead_of_a_job(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path, SlideSource("s", None))

    def tried(job: Any) -> list[Any]:
        return [job, *(other for retry in job.retries() for other in tried(retry))]

    batches = tried(BatchJob(work, (3, 4), CLASSICAL))
    assert [(job.tiles, job.alone, bool(job.lost)) for job in batches] == [
        ((3, 4), False, False),
        ((3, 4), True, False),
        *[((tile,), True, lost) for tile in (3, 4) for lost in (False, True)],
    ]
    patches = [job.indices for job in tried(BlockJob(work, "verdicts", "0", (7, 8), 9.0))]
    assert patches == [(7, 8)] * 2 + [(7,)] * 2 + [(8,)] * 2
    stage = isolated("x", _die, [WorkJob(work)])
    assert stage.retry is not None
    assert stage.retry(WorkJob(work), ValueError()) is None
    assert stage.retry(WorkJob(work), WorkerDied()) == (WorkJob(work, alone=True),)
    assert stage.retry(WorkJob(work, alone=True), WorkerDied()) is None


def test_what_a_callback_raises_is_its_slides_failure() -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    def steps(stage: Stage) -> Steps:
        try:
            return (yield stage)
        except ZeroDivisionError:
            return "failed"

    stages = [Stage("a", abs, [1], on_result=fails), Stage("b", _die, [1], retry=fails), Stage("c", abs, [-2])]
    assert dict(run_stages(SerialExecutor(), map(steps, stages))) == {0: "failed", 1: "failed", 2: [2]}


def test_an_error_of_who_watches_is_no_slides_failure(slide: Path, tmp_path: Path) -> None:
    def watch(event: Event) -> None:
        if isinstance(event, TilesDone):
            raise BrokenPipeError("closed")

    with pytest.raises(BrokenPipeError, match="closed"):
        pipeline.segment_slides([slide], tmp_path, pipeline.SegmentOptions(CLASSICAL, 256), SerialExecutor(), watch)
    assert not (tmp_path / "s").exists()


class Killed(SerialExecutor):
    """Ends the run at the nth task of a name."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__()
        self.name, self.count, self.names = name, count, []

    def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> Any:
        self.names.append(name)
        if self.names.count(self.name) == self.count:
            raise KeyboardInterrupt
        return super().submit(name, function, argument, urgent)


def test_a_stopped_run_draws_and_judges_only_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsiseg.results.maps.SHARD_PX", 512)
    monkeypatch.setattr("wsiseg.results.maps.CHUNK_PX", 256)
    monkeypatch.setattr("wsiseg.qc.patches._BLOCK_PATCHES", 1)
    path = tmp_path / "s.svs"
    write_slide(path, width=1536, height=768, layout="dense", seam_px=512, seed=4)
    stopped = [Killed("label-map", 2), Killed("grade-patches", 3)]
    for killed in stopped:
        with pytest.raises(KeyboardInterrupt):
            run(path, tmp_path / "out", killed)
    (work,) = (tmp_path / "out" / ".work" / "s").iterdir()
    blocks = sorted((work / "verdicts").iterdir())
    assert len(blocks) == 2
    stamps = [block.stat().st_mtime_ns for block in blocks]
    rest = Killed("", -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsiseg.results.folder.SlideFolder.clean", lambda self: None)
        record = run(path, tmp_path / "out", rest)
    undisturbed = Killed("", -1)
    whole = run(path, tmp_path / "whole", undisturbed)
    for name in ("label-map", "grade-patches"):
        begun = [executor.names.count(name) for executor in (*stopped, rest)]
        assert sum(begun) == undisturbed.names.count(name) + 1, begun  # the killed one twice
    for name in ("segment-batch", "stitch-row", "ask-opinions"):
        begun = [executor.names.count(name) for executor in (*stopped, rest)]
        assert sum(begun) == undisturbed.names.count(name), begun
    assert [block.stat().st_mtime_ns for block in blocks] == stamps
    timings = record["timings_s"]
    names = [
        "tissue",
        "artefacts",
        "segment",
        "segment_by_activity",
        "outside",
        "stitch",
        "labels",
        "grade",
        "publish",
        "total",
    ]
    assert list(timings) == names
    assert all(timings[name] > 0 for name in names if name != "segment_by_activity")
    for name in ("nuclei.parquet", "patches.parquet", "thumbnail.png"):
        assert (tmp_path / "out" / "s" / name).read_bytes() == (tmp_path / "whole" / "s" / name).read_bytes()
    assert whole["files"] == record["files"]


def test_a_damaged_verdict_is_given_again(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(slide, tmp_path, Killed("publish-slide", 1))
    (verdict,) = tmp_path.glob(".work/*/*/verdicts/*")
    content = bytearray(verdict.read_bytes())
    content[len(content) // 2] ^= 1
    verdict.write_bytes(content)
    again = Killed("", -1)
    assert run(slide, tmp_path, again)["status"] == "complete"
    assert again.names.count("grade-patches") == 1


class DiesAfterwards(SerialExecutor):
    """The worker that publishes dies once it has published, before anybody hears of it."""

    def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> Any:
        if name == "publish-slide" and function is publish_slide:
            function(argument)
            return super().submit(name, _die, argument, urgent)
        return super().submit(name, function, argument, urgent)


def test_a_death_after_the_last_rename_is_no_failure(slide: Path, tmp_path: Path) -> None:
    record = run(slide, tmp_path, DiesAfterwards())
    assert record["status"] == "complete"
    assert json.loads((tmp_path / "s" / "slide.json").read_text()) == record
    assert 'class="status failed"' not in (tmp_path / "report.html").read_text()


def test_publishing_again_gives_the_same_record_and_an_earlier_result_is_not_taken_for_it(
    slide: Path, tmp_path: Path
) -> None:
    first = run(slide, tmp_path)
    folder = SlideFolder(tmp_path, "s")
    work = folder.in_progress(first["key"], SlideSource(str(slide), None))
    stale = publish_job(folder, work, first["key"], 0.0)
    assert published_record(stale) is None  # nothing has been published since
    shutil.copy(tmp_path / "s" / "slide.json", tmp_path / "copy.json")
    os.replace(tmp_path / "copy.json", tmp_path / "s" / "slide.json")
    assert publish_slide(stale).to_dict() == first
