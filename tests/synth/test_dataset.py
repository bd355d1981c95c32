"""Datasets of patches: the format, the same bytes for any workers, resuming after kills, the command."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from PIL import Image
from wsiseg_cli.group import cli

from wsiseg.core.atomic import lock_beside
from wsiseg.errors import EnvironmentFault, ModelError, UsageError
from wsiseg.run.events import Event, PatchesDone
from wsiseg.run.schedule import SerialExecutor
from wsiseg.synth import dataset as module
from wsiseg.synth.dataset import create_dataset, open_dataset
from wsiseg.synth.hou.generate import generate_hou
from wsiseg.synth.hou.patch import HouOptions, render_patch
from wsiseg.synth.hou.tiles import load_tiles
from wsiseg.synth.renderers.transfer.refiner import RefinerPair
from wsiseg.synth.sheet import contact_sheet
from wsiseg.synth.weighting.importance import importance_weight
from wsiseg.testing.images import stained
from wsiseg.testing.networks import TINY_REFINER

COUNT = 2 * module.BLOCK + 6
SMALL = HouOptions(size=64)


def content(path: Path) -> dict[str, str]:
    """SHA-256 of every file below ``path``."""
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("textures")
    Image.fromarray(np.full((96, 96, 3), 240, dtype=np.uint8)).save(folder / "a_white.png")
    for seed in range(3):
        Image.fromarray(stained(seed, 128)).save(folder / f"tile{seed}.png")
    return folder


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pair = RefinerPair.new(TINY_REFINER, 1)
    torch.nn.init.normal_(pair.refiner.head.weight, std=0.2)
    path = tmp_path_factory.mktemp("refiner") / "refiner.safetensors"
    pair.save(path, {})
    return path


@pytest.fixture(scope="module")
def made(textures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "d.zarr"
    record = generate_hou(textures, out, COUNT, 7, SerialExecutor(), options=SMALL)
    assert record == {"status": "complete", "path": str(out), "patches": COUNT, "computed": COUNT}
    return out


def test_the_format(made: Path, textures: Path) -> None:
    data = open_dataset(made)
    assert len(data) == COUNT
    assert data.mpp == 0.25
    shapes = {name: (getattr(data, name).shape, str(getattr(data, name).dtype)) for name in module._ARRAYS}
    assert shapes == {
        "image": ((COUNT, 64, 64, 3), "uint8"),
        "instances": ((COUNT, 64, 64), "int32"),
        "weight": ((COUNT,), "float32"),
        "texture": ((COUNT,), "int32"),
    }
    assert data.image.shards == (module.BLOCK, 64, 64, 3)
    assert data.image.chunks == (1, 64, 64, 3)
    tiles = load_tiles(textures)
    for index in (0, 33, COUNT - 1):
        patch = render_patch([tile for _, tile in tiles], 7, index, SMALL)
        np.testing.assert_array_equal(data.image[index], patch.image)
        np.testing.assert_array_equal(data.instances[index], patch.labels)
        named = data.provenance["textures"][int(np.asarray(data.texture[index]))]["name"]
        assert named == tiles[patch.tile][0]
    np.testing.assert_array_equal(data.weight[:], 1)


def test_the_provenance_says_what_made_it(made: Path) -> None:
    provenance = open_dataset(made).provenance
    assert (provenance["method"], provenance["seed"]) == ("hou", 7)
    assert provenance["options"] == {"size": 64, "distractors": True}
    assert {"wsiseg", "numpy", "zarr"} <= set(provenance["versions"])
    assert [texture["name"] for texture in provenance["textures"]] == ["a_white", "tile0", "tile1", "tile2"]
    assert zarr.open_group(str(made), mode="r").attrs["wsiseg"]["schema"] == module.SCHEMA


@pytest.mark.slow
def test_two_workers_make_the_same_bytes_as_none(made: Path, textures: Path, refiner: Path, tmp_path: Path) -> None:
    from wsiseg.run.cluster import ClusterOptions, open_executor

    with open_executor(ClusterOptions(workers=2, device="cpu", dashboard="127.0.0.1:0")) as executor:
        generate_hou(textures, tmp_path / "two.zarr", COUNT, 7, executor, options=SMALL)
        generate_hou(textures, tmp_path / "refined.zarr", 40, 7, executor, options=SMALL, refiner=refiner)
    assert content(tmp_path / "two.zarr") == content(made)
    generate_hou(textures, tmp_path / "alone.zarr", 40, 7, SerialExecutor(), options=SMALL, refiner=refiner)
    assert content(tmp_path / "refined.zarr") == content(tmp_path / "alone.zarr")


class Stopping(SerialExecutor):
    """Stops in the middle of things: after ``after`` tasks."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def submit(self, name: str, function: Callable[[Any], Any], argument: Any, urgent: bool = False) -> Future[Any]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().submit(name, function, argument, urgent)


def test_a_stopped_run_goes_on_where_it_was(made: Path, textures: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.zarr"
    with pytest.raises(KeyboardInterrupt):
        generate_hou(textures, out, COUNT, 7, Stopping(1), options=SMALL)
    with pytest.raises(UsageError, match="not complete"):
        open_dataset(out)
    # What a kill leaves: a file half written, a block whose weights are missing.
    (out / "weight" / "c").mkdir(exist_ok=True)
    (out / "weight" / "c" / "1.0123.partial").write_bytes(b"half")
    (out / "image" / "c" / "1" / "0" / "0").mkdir(parents=True)
    (out / "image" / "c" / "1" / "0" / "0" / "0").write_bytes(b"junk")
    seen: list[Event] = []
    record = generate_hou(textures, out, COUNT, 7, SerialExecutor(), options=SMALL, on_event=seen.append)
    assert record["computed"] == COUNT - module.BLOCK
    assert seen[0] == PatchesDone(out.name, module.BLOCK, COUNT)
    assert seen[-1] == PatchesDone(out.name, COUNT, COUNT)
    assert content(out) == content(made)
    assert generate_hou(textures, out, COUNT, 7, SerialExecutor(), options=SMALL)["status"] == "unchanged"


@pytest.mark.slow
def test_a_killed_process_leaves_what_the_same_command_completes(textures: Path, tmp_path: Path) -> None:
    out, straight = tmp_path / "killed.zarr", tmp_path / "straight.zarr"
    arguments = ["synth", "hou", "--textures", str(textures), "--count", "96", "--seed", "1", "--size", "128"]
    command = [sys.executable, "-m", "wsiseg_cli", *arguments, "-w", "0", "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "weight" / "c" / "0").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not json.loads((out / "zarr.json").read_text())["attributes"]["wsiseg"]["complete"]
    options = HouOptions(size=128)
    record = generate_hou(textures, out, 96, 1, SerialExecutor(), options=options)
    assert 0 < record["computed"] < 96
    generate_hou(textures, straight, 96, 1, SerialExecutor(), options=options)
    assert content(out) == content(straight)


@pytest.mark.usefixtures("one_thread")
def test_a_refiner_makes_images_and_weights(made: Path, textures: Path, refiner: Path, tmp_path: Path) -> None:
    out = tmp_path / "refined.zarr"
    generate_hou(textures, out, 5, 7, SerialExecutor(), options=SMALL, refiner=refiner)
    refined, plain = open_dataset(out), open_dataset(made)
    np.testing.assert_array_equal(refined.instances[:], plain.instances[:5])
    pair = RefinerPair.load(refiner)
    for index, patch in enumerate(patches(textures, 5)):
        image, probability = pair.refine(patch.image[None], patch.reference[None])
        np.testing.assert_array_equal(refined.image[index], image[0])
        np.testing.assert_allclose(refined.weight[index], importance_weight(probability)[0], rtol=1e-5)
    assert not np.array_equal(refined.image[:], plain.image[:5])
    assert refined.provenance["refiner_sha256"] == hashlib.sha256(refiner.read_bytes()).hexdigest()
    assert "torch" in refined.provenance["versions"]
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        generate_hou(textures, tmp_path / "again.zarr", 5, 7, SerialExecutor(), options=SMALL, refiner=refiner)
    finally:
        torch.set_num_threads(threads)
    assert content(tmp_path / "again.zarr") == content(out)


def patches(textures: Path, count: int) -> Iterator:
    tiles = [tile for _, tile in load_tiles(textures)]
    return (render_patch(tiles, 7, index, SMALL) for index in range(count))


def test_a_dataset_made_otherwise_is_not_written_over(made: Path, textures: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.zarr"
    shutil.copytree(made, out)
    before = content(out)
    with pytest.raises(UsageError, match="made otherwise \\(seed\\)"):
        generate_hou(textures, out, COUNT, 8, SerialExecutor(), options=SMALL)
    with pytest.raises(UsageError, match="made otherwise \\(count\\)"):
        generate_hou(textures, out, COUNT + 1, 7, SerialExecutor(), options=SMALL)
    assert content(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="in the way"):
        create_dataset(tmp_path / "mine", 1, (8, 8), 0.25, {})
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_wrong_requests_are_refused(textures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least"):
        generate_hou(textures, tmp_path / "d", 0, 0, SerialExecutor())
    with pytest.raises(UsageError, match="no such folder"):
        generate_hou(tmp_path / "absent", tmp_path / "d", 1, 0, SerialExecutor())
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        generate_hou(textures, tmp_path / "d", 1, 0, SerialExecutor(), refiner=tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="no dataset"):
        open_dataset(textures)
    assert not (tmp_path / "d").exists()


def test_one_writer_at_a_time(textures: Path, tmp_path: Path) -> None:
    with (
        lock_beside(tmp_path / "d.zarr"),
        pytest.raises(EnvironmentFault, match="another run"),
    ):
        generate_hou(textures, tmp_path / "d.zarr", 1, 0, SerialExecutor())


def test_the_sheet_shows_patches_and_outlines(made: Path, tmp_path: Path) -> None:
    data = open_dataset(made)
    picture = contact_sheet(data, 7, 3)
    assert picture.shape == (3 * 68, 3 * (2 * 64 + 4), 3)
    np.testing.assert_array_equal(picture[2 + 20 : 2 + 64, 2:66], data.image[0][20:])
    assert (picture == (0, 255, 120)).all(axis=2).sum() > 50
    result = CliRunner().invoke(cli, ["synth", "sheet", str(made), "-o", str(tmp_path / "s" / "sheet.png")])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "s" / "sheet.png") as image:
        assert image.format == "PNG"


def test_the_command(textures: Path, tmp_path: Path) -> None:
    arguments = ["synth", "hou", "--textures", str(textures), "--count", "3", "-o", str(tmp_path / "d.zarr")]
    result = CliRunner().invoke(cli, [*arguments, "--size", "64", "-w", "0", "--no-distractors", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["patches"] == 3
    data = open_dataset(tmp_path / "d.zarr")
    assert data.provenance["options"] == {"size": 64, "distractors": False}
