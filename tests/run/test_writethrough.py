"""Results at URLs: what lies there, what is found there again, and what a stop or a fault leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem
from wsiseg_cli.group import cli

import wsiseg
from wsiseg.core.url import folder_url
from wsiseg.errors import EnvironmentFault, UsageError, WsisegError
from wsiseg.results.record import SegmentedRecord, read_record
from wsiseg.results.remote import WORK_VARIABLE, RemoteResults, damage, work_folder
from wsiseg.results.uploaded import UPLOADED
from wsiseg.run.events import Event, Note
from wsiseg.run.outcome import CohortResult
from wsiseg.run.pipeline import report_again, segment_slides
from wsiseg.run.schedule import SerialExecutor
from wsiseg.testing import write_slide
from wsiseg.testing.runs import CLASSICAL, StopsAfter, same_results
from wsiseg.tiles.request import SegmentOptions

URL = "memory://bucket/results"
ROOT = "/bucket/results"


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("slides")
    for name, seed in (("a", 3), ("b", 4)):
        write_slide(folder / f"{name}.svs", width=400, height=400, mpp=0.5, layout="dense", seed=seed)
    return folder / "a.svs", folder / "b.svs"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What is at URLs, by path; empty at first."""
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path / "work"))
    found: dict[str, Any] = MemoryFileSystem.store
    found.clear()
    yield found
    found.clear()


@pytest.fixture(scope="module")
def finished(slides: tuple[Path, Path]) -> dict[str, Any]:
    """What a run leaves at the URL of one slide's results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WORK_VARIABLE, str(slides[0].parent / "work"))
        MemoryFileSystem.store.clear()
        run(slides[:1])
        return dict(MemoryFileSystem.store)


def run(
    paths: Iterable[Path], url: str = URL, executor: SerialExecutor | None = None, **settings: Any
) -> tuple[CohortResult, list[Event]]:
    events: list[Event] = []
    options = SegmentOptions(CLASSICAL, **{"tile": 512, **settings})
    return segment_slides(list(paths), url, options, executor or SerialExecutor(), events.append), events


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "elsewhere") -> None:
    """From now on this is another machine."""
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path / name))


def brought(folder: Path, url: str = URL) -> Path:
    """A copy of all that is at the URL."""
    system, root = fsspec.core.url_to_fs(url)
    for path in system.find(root):
        target = folder / path.removeprefix(f"{root}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(system.cat_file(path))
    return folder


def whole(name: str = "a") -> bool:
    """Whether the slide counts as finished at the URL; then it must be."""
    remote = RemoteResults(URL)
    record = remote.record(name, remote.content(name))
    if record is None:
        return False
    assert isinstance(record, SegmentedRecord)
    assert damage(remote.files(name), record.files) == ""
    return True


def notes(events: Iterable[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Note))


def put_fails(monkeypatch: pytest.MonkeyPatch, error: BaseException, at: Callable[[str], bool]) -> None:
    """Copies to the URL fail from the first one of such a name on."""
    put, failing = MemoryFileSystem.put_file, []

    def put_file(self: MemoryFileSystem, source: str, target: str, *rest: Any, **more: Any) -> None:
        if failing or at(target):
            failing.append(target)
            self.store.pop(target, None)
            raise error
        put(self, source, target, *rest, **more)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)


def test_the_command_leaves_at_a_url_what_it_leaves_in_a_folder(slides: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["segment", str(slides[0]), "-m", CLASSICAL, "-w", "0", "-o"]
    for out in (URL, str(tmp_path / "results")):
        result = CliRunner().invoke(cli, [*arguments, out])
        assert result.exit_code == 0, result.output
        assert f"report: {out}/report.html" in result.output
    far = brought(tmp_path / "far")
    names = [sorted(path.name for path in out.iterdir()) for out in (far, tmp_path / "results")]
    assert names[0] == [name for name in names[1] if name != ".lock"]
    for out in (far, tmp_path / "results"):
        (out / "a" / "report.html").unlink()  # it has the time of the run
    same_results(far / "a", tmp_path / "results" / "a")
    assert "<title>" in (far / "report.html").read_text()
    assert "results" in (far / "report.html").read_text().partition("</title>")[0]
    again = CliRunner().invoke(cli, [*arguments, f"{URL}/", "--json"])
    told = json.loads(again.stdout)
    assert (told["tiles_computed"], told["out"], told["report"]) == (0, URL, f"{URL}/report.html")


def test_another_machine_finds_it_finished(
    slides: tuple[Path, Path], finished: dict[str, Any], store: dict[str, Any], tmp_path: Path
) -> None:
    store.update(finished)
    before = {name: file.getvalue() for name, file in finished.items() if name.startswith(f"{ROOT}/a/")}
    result, _ = run(slides[:1])
    assert result.tiles_computed == 0
    assert {name: store[name].getvalue() for name in before} == before
    mirror = work_folder(URL) / "a"
    assert not (mirror / "nuclei.parquet").exists()
    assert not (mirror / "maps.zarr").exists()
    # What is not here is fetched by whoever asks for it.
    assert len(result[0].nuclei) == result.records[0].nuclei
    # The disk holds what the report needs, and no more after the next run.
    run(slides[:1])
    assert not (mirror / "nuclei.parquet").exists()


def test_from_python(slides: tuple[Path, Path], finished: dict[str, Any], store: dict[str, Any]) -> None:
    store.update(finished)
    options = wsiseg.SegmentOptions(model=CLASSICAL, tile=512)
    result = wsiseg.segment(slides[0], URL, options, workers=0, progress=False)
    assert len(result.nuclei) == result.record.nuclei
    cohort = wsiseg.segment([slides[0]], URL, options, workers=0, progress=False)
    assert URL in repr(cohort)
    assert (cohort.url, cohort.tiles_computed) == (URL, 0)


def test_a_cohort_on_two_machines(
    slides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: dict[str, Any]
) -> None:
    run(slides[:1])
    elsewhere(tmp_path, monkeypatch)
    run(slides[1:])
    table = store[f"{ROOT}/cohort.csv"].getvalue().decode()
    assert all(str(path) in table for path in slides)
    pages = {name: store[f"{ROOT}/{name}/report.html"].getvalue() for name in "ab"}
    assert report_again(URL) == f"{URL}/report.html"
    assert pages == {name: store[f"{ROOT}/{name}/report.html"].getvalue() for name in "ab"}


@pytest.mark.parametrize("error", [ConnectionError("the line is cut"), PermissionError("Access Denied")])
def test_an_upload_that_fails_is_made_up_for(
    slides: tuple[Path, Path], store: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with monkeypatch.context() as broken:
        put_fails(broken, error, lambda target: target.endswith("nuclei.parquet"))
        with pytest.raises(EnvironmentFault, match=rf"{URL}.*{error}.*\n.*the same command"):
            run(slides[:1])
    assert not whole()
    assert isinstance(read_record(work_folder(URL) / "a"), SegmentedRecord)
    result, _ = run(slides[:1])
    assert result.tiles_computed == 0
    assert whole()
    assert f"{ROOT}/report.html" in store


class _Killed(BaseException):
    pass


def test_what_a_kill_leaves_counts_only_if_it_is_whole(
    slides: tuple[Path, Path],
    finished: dict[str, Any],
    store: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped at each copy of a file in turn, while an earlier result of other settings is replaced."""
    run(slides[:1], roi=(0, 0, 300, 300))
    earlier = dict(store)
    elsewhere(tmp_path, monkeypatch, "made")
    with monkeypatch.context() as broken:  # a machine that has made the new one, and has not copied anything
        put_fails(broken, _Killed(), lambda _: True)
        with pytest.raises(_Killed):
            run(slides[:1], overwrite=True)
    copies = sum(name.startswith(f"{ROOT}/a/") for name in finished)
    for place in range(0, copies + 3, 3):
        store.clear()
        store.update(earlier)
        shutil.copytree(tmp_path / "made", tmp_path / f"machine {place}")
        elsewhere(tmp_path, monkeypatch, f"machine {place}")
        seen: list[str] = []
        with monkeypatch.context() as broken:

            def this_one(target: str, seen: list[str] = seen, place: int = place) -> bool:
                seen.append(target)
                return len(seen) > place

            put_fails(broken, _Killed(), this_one)
            with pytest.raises(_Killed):
                run(slides[:1])
        assert whole() == (len([one for one in seen if "/a/" in one]) >= copies - 1)
        result, _ = run(slides[:1])
        assert result.tiles_computed == 0
        assert whole()
        left = {name for name in store if name.startswith(f"{ROOT}/a/")}
        assert left == {name for name in finished if name.startswith(f"{ROOT}/a/")}


def test_a_run_that_stops_within_a_slide_goes_on(slides: tuple[Path, Path], store: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(slides, executor=StopsAfter(9), tile=256)
    assert not [name for name in store if name.endswith("slide.json")]
    assert (work_folder(URL) / ".work" / "a").exists()
    result, _ = run(slides, tile=256)
    assert whole("a")
    assert whole("b")
    assert 0 < result.tiles_computed < sum(record.tiles.total for record in result.records if record.tiles)


@pytest.mark.slow
def test_the_disk_holds_few_slides_at_a_time(
    slides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [Path(shutil.copyfile(slides[0], tmp_path / f"{n}.svs")) for n in range(6)]
    put, held = MemoryFileSystem.put_file, []

    def slow(self: MemoryFileSystem, source: str, target: str, *rest: Any, **more: Any) -> None:
        if source.endswith("nuclei.parquet"):
            time.sleep(3)
            held.append(len(list(work_folder(URL).glob("*/nuclei.parquet"))))
        put(self, source, target, *rest, **more)

    monkeypatch.setattr(MemoryFileSystem, "put_file", slow)
    result, _ = run(paths)
    assert result.exit_code == 0
    assert len(held) == len(paths)
    assert max(held) <= 4  # one on its way, two due, one that the run waits with
    assert not list(work_folder(URL).glob("*/nuclei.parquet"))
    assert all(whole(record.id) for record in result.records)


@pytest.mark.slow
def test_a_process_that_dies_while_it_copies(slides: tuple[Path, Path], tmp_path: Path) -> None:
    url = f"file://{tmp_path}/far/results"
    script = (
        "import os, sys\n"
        "from fsspec.implementations.local import LocalFileSystem\n"
        "put = LocalFileSystem.put_file\n"
        "def dies(self, source, target, *rest, **more):\n"
        "    if target.endswith('thumbnail.png'):\n"
        "        os._exit(9)\n"
        "    put(self, source, target, *rest, **more)\n"
        "if sys.argv.pop() == 'dies':\n"
        "    LocalFileSystem.put_file = dies\n"
        "from wsiseg_cli.main import main\n"
        "main()\n"
    )
    words = ["segment", str(slides[0]), "-o", url, "-m", CLASSICAL, "-w", "0", "--json"]
    died = subprocess.run([sys.executable, "-c", script, *words, "dies"], capture_output=True)
    assert died.returncode == 9
    far = tmp_path / "far" / "results" / "a"
    assert far.is_dir()
    assert not (far / "slide.json").exists()
    again = subprocess.run([sys.executable, "-c", script, *words, "lives"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["tiles_computed"] == 0
    assert isinstance(read_record(far), SegmentedRecord)


def test_what_is_damaged_or_gone_at_the_url_is_made_again(
    slides: tuple[Path, Path], finished: dict[str, Any], store: dict[str, Any]
) -> None:
    store.update(finished)
    run(slides[:1])
    del store[f"{ROOT}/a/nuclei.parquet"]
    result, events = run(slides[:1])
    assert result.tiles_computed == 1
    assert "nuclei.parquet is missing" in notes(events)
    assert whole()
    store.clear()
    assert run(slides[:1])[0].tiles_computed == 1
    assert whole()


def test_other_settings_need_overwrite(
    slides: tuple[Path, Path], finished: dict[str, Any], store: dict[str, Any]
) -> None:
    store.update(finished)
    with pytest.raises(UsageError, match=rf"results of other settings.*\n.*\n.*results for {URL} are made"):
        run(slides[:1], roi=(0, 0, 200, 200))
    assert whole()
    result, _ = run(slides[:1], roi=(0, 0, 200, 200), overwrite=True)
    assert result.tiles_computed == 1
    assert whole()


def test_a_newer_result_at_the_url_holds_against_an_older_one_here(
    slides: tuple[Path, Path], store: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(slides[:1])
    elsewhere(tmp_path, monkeypatch)
    run(slides[:1], roi=(0, 0, 200, 200), overwrite=True)
    newer = store[f"{ROOT}/a/slide.json"].getvalue()
    elsewhere(tmp_path, monkeypatch, "work")
    with pytest.raises(UsageError, match="other settings"):
        run(slides[:1])
    assert store[f"{ROOT}/a/slide.json"].getvalue() == newer


def test_a_slide_that_failed_is_tried_again(
    tmp_path: Path, slides: tuple[Path, Path], store: dict[str, Any]
) -> None:
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"no slide")
    result, _ = run([slide, slides[1]])
    assert [record.status for record in result.records] == ["failed", "complete"]
    assert json.loads(store[f"{ROOT}/a/slide.json"].getvalue())["status"] == "failed"
    shutil.copyfile(slides[0], slide)
    result, _ = run([slide, slides[1]])
    assert [record.status for record in result.records] == ["complete", "complete"]
    assert whole()


def test_a_slide_that_was_moved_keeps_its_results(
    tmp_path: Path, slides: tuple[Path, Path], store: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a.svs", tmp_path / "renamed.svs"
    shutil.copyfile(slides[0], first)
    run([first])
    first.rename(second)
    elsewhere(tmp_path, monkeypatch)
    assert run([second])[0].tiles_computed == 0
    assert json.loads(store[f"{ROOT}/a/slide.json"].getvalue())["slide"]["path"] == str(second)
    assert whole()


def test_what_is_somebody_elses_stays(slides: tuple[Path, Path], store: dict[str, Any]) -> None:
    fsspec.filesystem("memory").pipe_file(f"{ROOT}/a/mine.txt", b"mine")
    with pytest.raises(EnvironmentFault, match=r"holds 'mine.txt'"):
        run(slides[:1])
    assert list(store) == [f"{ROOT}/a/mine.txt"]
    assert not (work_folder(URL) / ".work").exists()  # nothing was computed


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://host/results", "can be read, not written"),
        ("s3://bucket/results?X-Amz-Signature=1", "has a query"),
        ("sftp://me:secret@host/results", "sftp://…@host: has a password"),
        ("s3://bucket/../results", "has the part"),
        ("s3://bucket/*/results", "expected the URL of one folder"),
        ("s3://", "expected the URL of one folder"),
    ],
)
def test_urls_that_results_cannot_be_at(url: str, said: str, slides: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        run(slides[:1], url)
    assert "secret" not in str(refused.value)
    result = CliRunner().invoke(cli, ["segment", str(slides[0]), "-o", url])
    assert isinstance(result.exception, UsageError)


def test_a_path_that_was_made_of_a_url(slides: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="has lost a slash"):
        wsiseg.segment(slides[0], Path("s3://bucket/results"), workers=0, progress=False)


def test_protocols_that_are_none_or_only_read(
    slides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="protocol of fsspec"):
        run(slides[:1], "gopher://host/results")

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(UsageError, match="cannot be written"):
        run(slides[:1])


def test_a_missing_package_is_named(slides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacks)
    with pytest.raises(UsageError, match=r"Install s3fs.*\n.*wsiseg\[remote\]"):
        run(slides[:1], "s3://bucket/results")


@pytest.mark.parametrize("error", [PermissionError("Access Denied"), FileNotFoundError("no such bucket")])
def test_what_may_not_be_written_is_known_before_anything_is_computed(
    slides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(EnvironmentFault, match=rf"{error}.*\nExpected: (permission|a bucket)"):
        run(slides[:1])
    assert not (work_folder(URL) / ".work").exists()


def test_a_second_run_on_this_machine_is_refused(slides: tuple[Path, Path]) -> None:
    refused: list[WsisegError] = []

    def second(event: Event) -> None:
        if not refused:
            refused.append(EnvironmentFault(""))
            with pytest.raises(EnvironmentFault, match="another run is writing") as found:
                run(slides[:1])
            refused[0] = found.value

    options = SegmentOptions(CLASSICAL, tile=512)
    segment_slides(slides[:1], URL, options, SerialExecutor(), second)
    assert URL in str(refused[0])


def test_workers_must_see_the_folder_that_results_are_made_in(slides: tuple[Path, Path]) -> None:
    class Far(SerialExecutor):
        def map_bounded(self, function: Callable[[Any], Any], tasks: Iterable[Any], name: str) -> Iterator[Any]:
            return (False for _ in tasks)

    with pytest.raises(UsageError, match=rf"not seen by all workers[\s\S]*{WORK_VARIABLE}"):
        run(slides[:1], executor=Far())


def test_commands_that_read(finished: dict[str, Any], store: dict[str, Any], tmp_path: Path) -> None:
    store.update(finished)

    def said(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, list(words))
        return result.exit_code, " ".join(result.output.split())

    assert said("report", URL) == (0, f"{URL}/report.html")
    target = tmp_path / "exported"
    assert said("export", URL, "--to", "geojson", "-o", str(target)) == (0, str(target / "a.geojson"))
    assert not (work_folder(URL) / "a" / "nuclei.parquet").exists()
    code, text = said("export", URL, "--to", "geojson")
    assert (code, "give -o" in text) == (2, True)
    for words in (
        ["overlay", f"{URL}/a", "--roi", "0,0,9,9", "-o", str(tmp_path / "x.png")],
        ["evaluate", "--truth", str(tmp_path), "--pred", URL],
        ["qc", "validate", str(tmp_path), URL],
    ):
        code, text = said(*words)
        assert (code, "expected a path" in text) == (2, True), text
    nothing = CliRunner().invoke(cli, ["report", "memory://bucket/nothing"])
    assert isinstance(nothing.exception, UsageError)
    assert "no finished slides" in str(nothing.exception)


def test_files_are_replaced_where_a_file_system_would_rather_not(
    slides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = MemoryFileSystem.put_file

    def careful(
        self: MemoryFileSystem, source: str, target: str, callback: Any = None, overwrite: bool = False
    ) -> None:
        if target in self.store and not overwrite:
            raise FileExistsError(target)
        put(self, source, target)

    monkeypatch.setattr(MemoryFileSystem, "put_file", careful)
    run(slides[:1])
    run(slides[:1], roi=(0, 0, 200, 200), overwrite=True)
    assert whole()


def test_names_at_a_url_lead_nowhere_else(store: dict[str, Any], tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    names = ("thumbnail.png", "pictures/a.jpg", "pictures/../../x", "pictures/a/b", "pictures/.c", "maps.zarr/d")
    for name in names:
        system.pipe_file(f"{ROOT}/a/{name}", b"content")
    RemoteResults(URL).fetch_for_reports("a", dict.fromkeys(names, 7), tmp_path / "made" / "a")
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {"made/a/thumbnail.png", "made/a/pictures/a.jpg"}


def test_urls_have_one_form() -> None:
    assert folder_url("S3://bucket//results/") == folder_url("s3://bucket/results") == "s3://bucket/results"
    assert folder_url("file:///data/results/") == "file:///data/results"
    assert work_folder("s3://bucket/results").name == "results"
    assert work_folder("s3://bucket/results") != work_folder("s3://other/results")


def test_a_run_into_a_folder_knows_nothing_of_urls(slides: tuple[Path, Path], tmp_path: Path) -> None:
    script = (
        "import sys, wsiseg\n"
        f"options = wsiseg.SegmentOptions({CLASSICAL!r})\n"
        "wsiseg.segment(sys.argv[1], sys.argv[2], options, workers=0, progress=False)\n"
        "names = ('wsiseg.run.writethrough', 'wsiseg.results.remote', 'fsspec.implementations.local', 's3fs')\n"
        "print([name for name in names if name in sys.modules])"
    )
    made = subprocess.run(
        [sys.executable, "-c", script, str(slides[0]), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert made.stdout.strip() == "[]", made.stderr
    assert not (tmp_path / "out" / "a" / UPLOADED).exists()


@pytest.mark.slow
def test_s3_from_worker_processes(s3: Any, slides: tuple[Path, Path], tmp_path: Path) -> None:
    s3.mkdir("bucket")
    url = "s3://bucket/cohort/results"
    words = ["segment", *map(str, slides), "-m", CLASSICAL, "-w", "2", "--json", "-o"]

    def command(*words: str, work: str = "work") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, WORK_VARIABLE: str(tmp_path / work)}
        program = [sys.executable, "-m", "wsiseg", *words]
        return subprocess.run(program, capture_output=True, text=True, env=environment)

    for work in ("work", "work", "elsewhere"):
        ended = command(*words, url, work=work)
        assert ended.returncode == 0, ended.stderr
        told = json.loads(ended.stdout)
        assert (told["out"], [one["status"] for one in told["slides"]]) == (url, ["complete", "complete"])
    assert told["tiles_computed"] == 0
    near = tmp_path / "results"
    assert command(*words, str(near)).returncode == 0
    far = brought(tmp_path / "far", url)
    for out in (far, near):
        for name in "ab":
            (out / name / "report.html").unlink()
    for name in "ab":
        same_results(far / name, near / name)
    missing = command(*words, "s3://none/results")
    assert missing.returncode == 5
    assert "Expected: a bucket or folder that is there" in missing.stderr
