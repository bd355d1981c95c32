"""Names, keys, atomic files and the lock of a results folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import EnvironmentFault
from wsiseg.store import SlideFolder, assign_ids, output_lock, read_records, result_key, write_json

OUT = Path("/nowhere/out")


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
    write_json(folder.final / "slide.json", {"schema": "wsiseg.slide", "slide": {"path": str(first)}})
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
    for version in (1, 2):
        work = folder.in_progress(f"{version}" * 64)
        work.create()
        write_json(work.result / "slide.json", {"schema": "wsiseg.slide", "id": "s", "version": version})
        assert (folder.record() or {}).get("version") == (None if version == 1 else 1)
        folder.publish(work)
        assert (folder.record() or {})["version"] == version
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
        "from pathlib import Path\nfrom wsiseg.store import output_lock\n"
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
