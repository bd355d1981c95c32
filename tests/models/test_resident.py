"""What a process keeps of its models: the file's newest content for a plan, the planned content for a task."""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from wsiseg.errors import EnvironmentFault, ModelError
from wsiseg.models import resident
from wsiseg.models.base import ModelCard
from wsiseg.models.engine import engine
from wsiseg.models.foreign import onnxfile
from wsiseg.models.networks import build_network
from wsiseg.models.resident import ModelChoice, resident_segmenter
from wsiseg.models.weightfile import save_weights


@pytest.fixture(autouse=True)
def nothing_resident() -> Iterator[None]:
    resident._residents.clear()
    yield
    resident._residents.clear()


def write(path: Path, seed: int) -> Path:
    """Weights of a small network; their number, and so the file's size, is always the same."""
    torch.manual_seed(seed)
    network = build_network("unet", {"widths": [4, 8, 8]})
    save_weights(path, network.state_dict(), ModelCard("tiny", "random", "CC0-1.0"), {"widths": [4, 8, 8]}, {})
    return path


def choice(path: Path, **more: Any) -> ModelChoice:
    return ModelChoice(str(path), "cpu", **more)


def plan(chosen: ModelChoice) -> Any:
    """What a plan's file says of the segmenter."""
    return json.loads(json.dumps(resident_segmenter(chosen).describe()))


def test_a_segmenter_is_loaded_once(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", 1)
    first = resident_segmenter(choice(path))
    assert resident_segmenter(choice(path)) is first
    assert resident_segmenter(choice(path), plan(choice(path))) is first


@pytest.mark.parametrize("same_times", [True, False])
def test_weights_overwritten_under_their_name_are_loaded_again(tmp_path: Path, same_times: bool) -> None:
    path = write(tmp_path / "m.safetensors", 1)
    before, old = path.stat(), plan(choice(path))
    kept = weakref.ref(resident_segmenter(choice(path)))
    other = write(tmp_path / "other.safetensors", 2)
    path.write_bytes(other.read_bytes())  # in place: the same inode and size
    if same_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    new = plan(choice(path))
    assert new["weights_sha256"] != old["weights_sha256"]
    assert new["weights_sha256"] == resident_segmenter(choice(other)).describe()["weights_sha256"]
    gc.collect()
    assert kept() is None


def test_a_task_gets_what_was_planned(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", 1)
    old = plan(choice(path))
    first = resident_segmenter(choice(path))
    write(path, 2)
    assert resident_segmenter(choice(path), old) is first  # loaded before the file was replaced: the run goes on
    new = plan(choice(path))
    assert resident_segmenter(choice(path), new).describe()["weights_sha256"] == new["weights_sha256"]
    with pytest.raises(EnvironmentFault, match=r"m\.safetensors.*SHA-256.*overwritten(?s:.*)the same command"):
        resident_segmenter(choice(path), old)


def test_a_process_that_lived_through_the_change_loads_what_a_new_run_planned(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", 1)
    resident_segmenter(choice(path))
    write(path, 2)
    copy = tmp_path / "copy" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    planned_elsewhere = plan(choice(copy))
    assert resident_segmenter(choice(path), planned_elsewhere).describe() == planned_elsewhere


def test_a_network_behind_a_manifest_is_watched_too(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('format = 1\nname = "x"\nfile = "x.tar"\nlicence = "unknown"\nmpp = 0.25\n')
    from wsiseg.models.registry import model_files

    assert model_files(str(path)) == (path, tmp_path / "x.tar")
    assert model_files("classical") == ()


def test_few_segmenters_are_kept(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.safetensors", n) for n in range(5)]
    kept = [weakref.ref(resident_segmenter(choice(path))) for path in paths]
    gc.collect()
    assert [ref() is not None for ref in kept] == [False, False, True, True, True]


@pytest.mark.parametrize("planned_in", ["fp32", "bf16"])
def test_unlike_machines_do_not_mix_precisions(
    tmp_path: Path, planned_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned where auto means one precision, computed where it means the other."""
    path = write(tmp_path / "m.safetensors", 1)
    monkeypatch.setattr(engine, "cpu_has_bf16", lambda: planned_in == "bf16")
    planned = plan(choice(path))
    assert planned["precision"] == planned_in
    resident._residents.clear()  # another machine
    monkeypatch.setattr(engine, "cpu_has_bf16", lambda: planned_in != "bf16")
    if planned_in == "fp32":
        assert resident_segmenter(choice(path), planned).describe()["precision"] == "fp32"
    else:
        with pytest.raises(EnvironmentFault, match=r"bf16(?s:.*)--precision fp32"):
            resident_segmenter(choice(path), planned)


@pytest.mark.parametrize("content", [b"", bytes(100_000), b"\x08\x01" * 3_000_000])
def test_onnx_files_without_end_are_refused(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxfile, "_MOST_FIELDS", 100_000)
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX file"):
        onnxfile.require_whole(path)


def test_a_manifest_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text("a = " + "[" * 50_000)
    with pytest.raises(ModelError, match="not a TOML file") as caught:
        resident_segmenter(choice(path))
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), ModelError)
    tb = caught.tb
    depth = 0
    while tb is not None:
        tb, depth = tb.tb_next, depth + 1
    assert depth < 50


def test_another_description_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", 1)
    planned = {**plan(choice(path)), "margin_px": 3}
    with pytest.raises(EnvironmentFault, match="margin_px"):
        resident_segmenter(choice(path), planned)


def test_a_file_that_changes_while_it_is_read_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsiseg.models import registry

    path, load = write(tmp_path / "m.safetensors", 1), registry.load_weights

    def changing(file: Path) -> Any:
        found = load(file)
        write(path, 2)
        return found

    monkeypatch.setattr(registry, "load_weights", changing)
    with pytest.raises(ModelError, match="changed while it was read"):
        resident_segmenter(choice(path))
