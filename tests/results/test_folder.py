"""Names, keys, atomic files and the lock of a results folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.core import sealed
from wsiseg.core.atomic import temporary_name, write_json
from wsiseg.errors import DamagedFile, EnvironmentFault, SlideError, UsageError
from wsiseg.results.folder import (
    RESULT_FILES,
    SlideFolder,
    assign_ids,
    describe_files,
    output_lock,
    read_records,
    result_key,
)
from wsiseg.results.record import NotARecord, SegmentedRecord, parse_record, read_record, write_record
from wsiseg.slide import Mpp, SlideSource
from wsiseg.testing.records import failed_record, finished_record

OUT = Path("/nowhere/out")
SOURCE = SlideSource("/slides/s.svs", Mpp(0.5, "option"))


def test_a_plain_stem_is_the_id() -> None:
    assert assign_ids([Path("a/TCGA-01.svs")], OUT) == {Path("a/TCGA-01.svs"): "TCGA-01"}
    assert assign_ids([Path("a/s.ome.zarr")], OUT) == {Path("a/s.ome.zarr"): "s"}


def test_the_same_stem_in_two_folders_is_told_apart() -> None:
    ids = assign_ids([Path("a/x.svs"), Path("b/x.svs"), Path("b/X.svs"), Path("b/y.svs")], OUT)
    assert len({name.casefold() for name in ids.values()}) == 4
    assert ids[Path("b/y.svs")] == "y"


def test_another_slides_results_are_not_taken_over(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "x.svs", tmp_path / "b" / "x.svs"
    folder = SlideFolder(tmp_path, assign_ids([first], tmp_path)[first])
    folder.final.mkdir()
    write_json(folder.final / "slide.json", failed_record("x", slide={"path": str(first), "name": first.name}))
    assert assign_ids([first], tmp_path)[first] == "x"
    assert assign_ids([second], tmp_path)[second].startswith("x-")


@given(st.lists(st.text(min_size=1, max_size=300).filter(lambda t: "\0" not in t and "/" not in t), max_size=5))
def test_ids_are_safe_names_and_never_collide(names: list[str]) -> None:
    paths = [Path("/d") / f"{name}.svs" for name in dict.fromkeys(names)]
    ids = list(assign_ids(paths, OUT).values())
    assert len({name.casefold() for name in ids}) == len(paths)
    for name in ids:
        assert not name.startswith((".", "-"))
        assert not set(name) & set('/\\:*?"<>| \n\t\0')
        assert len(name.encode()) <= 100


def test_the_key_depends_on_everything_that_decides() -> None:
    keys = {
        result_key("f", {"tile_px": 512}),
        result_key("g", {"tile_px": 512}),
        result_key("f", {"tile_px": 1024}),
    }
    assert len(keys) == 3
    assert result_key("f", {"a": 1, "b": 2}) == result_key("f", {"b": 2, "a": 1})


def test_publishing_replaces_an_earlier_result_and_leaves_nothing_temporary(tmp_path: Path) -> None:
    folder = SlideFolder(tmp_path, "s")
    for number in (1, 2):
        work = folder.in_progress(f"{number}" * 64, SOURCE)
        work.create()
        write_json(work.result / "slide.json", failed_record("s", created=f"{number}"))
        before = folder.record()
        assert (before and before.created) == (None if number == 1 else "1")
        folder.publish(work)
        after = folder.record()
        assert after is not None
        assert after.created == f"{number}"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert len(read_records(tmp_path)) == 1


def test_a_torn_record_is_no_record(tmp_path: Path) -> None:
    folder = SlideFolder(tmp_path, "s")
    folder.final.mkdir()
    (folder.final / "slide.json").write_text('{"schema": "wsiseg.sl')
    assert folder.record() is None
    assert read_records(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_second_run_on_one_output_is_refused(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom wsiseg.results.folder import output_lock\n"
        f"with output_lock(Path({str(tmp_path)!r})): pass"
    )
    with output_lock(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode == 1
    assert "another run is writing" in other.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_output_that_is_a_file_is_an_environment_fault(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(EnvironmentFault, match="a file is in the way"), output_lock(tmp_path / "out"):
        pass


# what is somebody else's


@pytest.mark.parametrize("what", ["file", "folder", "link to nothing", "link to a folder", "record of another"])
def test_a_place_that_is_taken_is_refused_and_left_alone(tmp_path: Path, what: str) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    final = out / "s"
    out.mkdir()
    mine.mkdir()
    (mine / "precious.txt").write_text("mine")
    if what == "file":
        final.write_text("mine")
    elif what == "link to nothing":
        final.symlink_to(tmp_path / "nothing")
    elif what == "link to a folder":
        final.symlink_to(mine)
    else:
        final.mkdir()
        (final / "precious.txt").write_text("mine")
        if what == "record of another":
            write_json(final / "slide.json", failed_record("other"))
    folder = SlideFolder(out, "s")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(EnvironmentFault, match="is there already and is no result of wsiseg"):
        folder.require_ours()
    with pytest.raises(EnvironmentFault, match="is there already"):
        folder.publish_failure(parse_record(failed_record("s"), folder.final))
    work = folder.in_progress("0" * 64, SOURCE)
    work.create()
    with pytest.raises(EnvironmentFault, match="is there already"):
        folder.publish(work)
    assert [path for path in sorted(tmp_path.rglob("*")) if ".work" not in path.parts] == before


def test_what_lies_beside_a_result_is_not_replaced_with_it(tmp_path: Path) -> None:
    folder = SlideFolder(tmp_path, "s")
    folder.final.mkdir()
    write_json(folder.final / "slide.json", failed_record("s"))
    (folder.final / ".slide.json.0a.tmp").write_bytes(b"left")
    folder.require_replaceable()
    (folder.final / "notes.txt").write_text("mine")
    with pytest.raises(EnvironmentFault, match=r"holds 'notes.txt', which would be lost"):
        folder.require_replaceable()
    elsewhere = SlideFolder(tmp_path, "t")
    target = tmp_path / "elsewhere"
    target.mkdir()
    write_json(target / "slide.json", failed_record("t"))
    elsewhere.final.symlink_to(target)
    elsewhere.require_ours()
    with pytest.raises(EnvironmentFault, match="is a link"):
        elsewhere.require_replaceable()


# records


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../../t"},
        {"id": ["s"]},
        {"schema": "wsiseg.tiles"},
        {"version": True},
        {"version": 0},
        {"status": None},
        {"status": "done"},
        {"slide": "x"},
        {"slide": {"path": "/s.svs", "name": "../../../x"}},
        {"slide": {"path": 3, "name": "s.svs"}},
        {"error": []},
        {"versions": 7},
        {"status": "complete"},
    ],
)
def test_a_record_that_cannot_be_relied_on_is_none(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = SlideFolder(tmp_path, "s")
    folder.final.mkdir()
    write_json(folder.final / "slide.json", failed_record("s"))
    assert folder.record() is not None
    write_json(folder.final / "slide.json", failed_record("s", **changes))
    assert folder.record() is None
    assert read_records(tmp_path) == []
    with pytest.raises(EnvironmentFault, match=r"slide\.json: "):
        folder.require_ours()


def test_a_record_of_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    folder = SlideFolder(tmp_path, "s")
    folder.final.mkdir()
    write_json(folder.final / "slide.json", {"schema": "wsiseg.slide", "version": 99, "new": 1})
    for read in (folder.record, lambda: read_records(tmp_path), folder.require_ours, folder.require_replaceable):
        with pytest.raises(UsageError, match=r"/s: holds results of format 99, made by a newer wsiseg"):
            read()


def problem(value: object, folder: str) -> str:
    """Why a value is no record; "" if it is one."""
    try:
        parse_record(value, Path(folder))
    except NotARecord as error:
        return str(error)
    return ""


def test_a_record_as_a_run_writes_it_is_one() -> None:
    assert problem(finished_record("s"), "s") == ""
    assert problem(finished_record("s", status="partial"), "s") == ""
    assert "id is 's'" in problem(finished_record("s"), "t")
    for place in (("slide", "bounds"), ("grade", "interval"), ("specification", "model"), ("lost", "boxes")):
        record = finished_record("s")
        record[place[0]][place[1]] = "x"
        assert problem(record, "s").startswith(f"{'.'.join(place)}: expected ")


def test_a_record_of_before_there_was_a_judge_is_read() -> None:
    old = finished_record("s")
    for name in ("assessed", "words", "placed"):
        del old["grade"][name]
    grade = parse_record(old, Path("s")).grade
    assert grade is not None
    assert (grade.assessed, grade.words, grade.placed) == (True, "", None)
    assert grade.summary == "0 of 0 patches bad"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("slide", "mpp"), float("inf")),
        (("slide", "mpp"), None),
        (("slide", "width"), 10**400),
        (("slide", "bounds"), [0, 0, 1]),
        (("nuclei",), True),
        (("nuclei",), -1),
        (("lost", "boxes"), [[0, 0, 1, "damaged"]]),
        (("lost", "boxes"), [[0, 0, 1, float("nan"), "damaged"]]),
        (("specification", "model"), {"name": 3}),
        (("specification", "roi"), json.loads("[" * 200 + "]" * 200)),
        (("timings_s", "total"), "long"),
        (("files",), {"nuclei.parquet": {"crc32c": "0"}}),
    ],
)
def test_what_a_record_must_not_hold(place: tuple[str, ...], value: object) -> None:
    record = inner = finished_record("s")
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    assert problem(record, "s").startswith(place[0])


def test_a_record_is_written_as_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    told = {"types": {"none": 1, "other": 2}, "notes": ["odd"], "files": {"nuclei.parquet": {"bytes": 1}}}
    boxes = {"lost": {"area_mm2": 1.5, "fraction_of_tissue": 0.5, "boxes": [[0.0, 0.5, 9.0, 9.5, "cut"]]}}
    for value in (finished_record("s"), finished_record("s") | told | boxes, failed_record("s")):
        record = parse_record(value, tmp_path / "s")
        write_record(tmp_path / "s", record)
        assert read_record(tmp_path / "s") == record
        held = json.loads((tmp_path / "s" / "slide.json").read_text())
        assert held == record.to_dict()
        assert {name: held[name] for name in value} == value
    assert list(held)[:6] == ["schema", "version", "id", "status", "error", "slide"]
    assert held["grade"] is held["notes"] is None


def test_a_record_of_a_slide_whose_name_is_no_text_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    record = parse_record(finished_record("s"), tmp_path / "s")
    assert isinstance(record, SegmentedRecord)
    name = os.fsdecode(b"\xff\xfe.svs")
    moved = record.moved(f"/slides/{name}", name)
    write_record(tmp_path / "s", moved)
    assert read_record(tmp_path / "s") == moved
    assert b"\\udcff\\udcfe.svs" in (tmp_path / "s" / "slide.json").read_bytes()


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"a": NaN}', '{"schema": ' * 100_000])
def test_what_is_no_json_of_ours_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "slide.json").write_text(text)
    assert read_record(tmp_path / "s") is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(["slide", "error", "versions", "status", "specification", "lost", "grade", "version", "id"]),
)
def test_no_record_is_too_odd_to_be_judged(value: object, field: str) -> None:
    assert problem(value, "s")
    assert isinstance(problem(failed_record("s", **{field: value}), "s"), str)
    assert problem(failed_record("s", **{"status": "complete", field: value}), "s")


# damage


def test_sealed_files_tell_what_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (b"", b"nuclei"):
        sealed.write_sealed(path, content)
        assert sealed.read_sealed(path) == content
    whole = path.read_bytes()
    flipped = bytes([whole[0] ^ 4]) + whole[1:]
    for damaged in (b"", whole[:-1], whole[:3], flipped, whole[:-1] + b"\0", whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=r"a\.bin"):
            sealed.read_sealed(path)
    path.unlink()
    with pytest.raises(DamagedFile, match="No such file"):
        sealed.read_sealed(path)


def test_sealed_json_that_was_edited_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"b": [1, (2.5, 1e-9)], "a": {"x": None, "é\udcff": "y"}, "n": {10: 1, 9: 2}}
    sealed.write_sealed_json(path, value)
    assert sealed.read_sealed_json(path) == json.loads(json.dumps(value))
    held = json.loads(path.read_text())
    for edited in ({**held, "b": 1}, {k: v for k, v in held.items() if k != "a"}, {**held, "crc32c": 1}, {}):
        path.write_text(json.dumps(edited))
        assert sealed.read_sealed_json(path) is None
    path.write_text("")
    assert sealed.read_sealed_json(path) is None


def test_damage_of_a_finished_result_is_told(tmp_path: Path) -> None:
    folder = SlideFolder(tmp_path, "s")
    store_file = folder.final / "maps.zarr" / "0" / "c"
    store_file.parent.mkdir(parents=True)
    contents = {folder.final / name: name.encode() * 9 for name in RESULT_FILES} | {store_file: b"chunk"}
    for path, content in contents.items():
        path.write_bytes(content)
    noted = describe_files(folder.final)
    assert noted["thumbnail.png"]["bytes"] == 9 * len("thumbnail.png")
    assert folder.damage(noted) == ""
    for path, content in contents.items():
        name = path.relative_to(folder.final).parts[0]
        path.unlink()
        assert folder.damage(noted) == f"{name} is {'damaged' if path == store_file else 'missing'}"
        path.write_bytes(content[:-1])
        assert folder.damage(noted) == f"{name} is damaged"
        path.write_bytes(content)
    flipped = contents[folder.final / "nuclei.parquet"].swapcase()
    (folder.final / "nuclei.parquet").write_bytes(flipped)
    assert folder.damage(noted) == "nuclei.parquet is damaged"
    assert folder.damage({}) == ""  # a record from before checksums says nothing of it


# the disk


def test_temporary_names_are_nobody_elses_and_never_too_long(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120 + ".svs.geojson")
    names = [temporary_name(path).name for _ in range(100)]
    assert len(set(names)) == 100
    assert all(len(name.encode()) < 120 and name.startswith(".é") and name.endswith(".tmp") for name in names)
    write_json(path, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_that_may_not_grow_is_the_environments_fault(tmp_path: Path) -> None:
    code = (
        "import resource, signal\nfrom pathlib import Path\nfrom wsiseg.core.atomic import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"write_bytes(Path({str(tmp_path / 'a')!r}), bytes(2000))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "EnvironmentFault" in done.stderr
    assert "ulimit -f" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_work_folder_that_is_gone_is_its_slides_fault_alone(tmp_path: Path) -> None:
    folder = SlideFolder(tmp_path / "out", "s")
    work = folder.in_progress("0" * 64, SOURCE)
    work.create()
    folder.clean()
    with pytest.raises(SlideError, match=r"0000 was removed during the run"):
        work.finish_stage("stitch", {})
    with pytest.raises(SlideError, match="was removed during the run"):
        write_json(work.part(0, 3), {})
    folder.out.rmdir()
    with pytest.raises(EnvironmentFault, match="was removed"):
        work.finish_stage("stitch", {})


def test_a_folder_in_the_place_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(EnvironmentFault, match=r"\.lock: a folder is in the way"), output_lock(tmp_path):
        pass
