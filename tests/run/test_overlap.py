"""Stages side by side: whatever ends first, and wherever a run is killed among them, the results are the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import wsiseg.results.plan as plan
import wsiseg.stitch.stage as stage
from wsiseg.run.schedule import SerialExecutor
from wsiseg.stitch.stream import stitch_rows
from wsiseg.testing import write_slide
from wsiseg.testing.runs import ShuffledExecutor, nothing_temporary, run, same_results


@pytest.fixture(autouse=True, scope="module")
def many_tasks() -> Iterator[None]:
    """One tile a batch, several shards of labels, blocks of artefacts and of patches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_BATCH_PX", 1)
        patch.setattr("wsiseg.results.maps.SHARD_PX", 256)
        patch.setattr("wsiseg.results.maps.CHUNK_PX", 128)
        patch.setattr("wsiseg.qc.patches._BLOCK_PATCHES", 1)
        patch.setattr("wsiseg.artefacts.fine.BLOCK_CELLS", 32)
        yield


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "s.svs"
    write_slide(path, width=1280, height=1024, layout="dense", seed=4)
    return path


@pytest.fixture(scope="module")
def clean(slide: Path, many_tasks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one task after the other, never changed."""
    out = tmp_path_factory.mktemp("clean")
    assert run([slide], out, tile=256)[0].exit_code == 0
    return out / "s"


class Killed(ShuffledExecutor):
    """Ends tasks in random order, and after some of them nothing more: what was running has not been committed."""

    def __init__(self, seed: int, tasks: int) -> None:
        super().__init__(seed)
        self.left = tasks

    def wait(self, tasks: Any) -> set[Future[Any]]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().wait(tasks)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_in_which_tasks_end_changes_nothing(slide: Path, clean: Path, tmp_path: Path, seed: int) -> None:
    executor = ShuffledExecutor(seed)
    assert run([slide], tmp_path / "out", executor, tile=256)[0].exit_code == 0
    same_results(clean, tmp_path / "out" / "s")
    assert executor.most > 2
    names = [name for name, _ in executor.calls]
    assert names.index("take-overview") < max(n for n, name in enumerate(names) if name == "segment-batch")
    assert names.index("label-map") < max(n for n, name in enumerate(names) if name == "grade-patches")


def test_what_is_made_of_nuclei_begins_as_soon_as_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "stitch_rows", partial(stitch_rows, row_group=20))
    write_slide(tmp_path / "s.svs", width=512, height=2560, layout="dense", seed=4)
    names: list[str] = []
    assert run([tmp_path / "s.svs"], tmp_path / "out", _Serial(names), tile=128)[0].exit_code == 0
    tiled = max(n for n, name in enumerate(names) if name == "segment-batch")
    for name in ("stitch-row", "label-map", "grade-patches"):
        assert names.index(name) < tiled, name
    assert names.count("stitch-row") == 10
    assert names[tiled:].count("stitch-row") == 1


def test_kills_among_the_stages_and_resumptions(slide: Path, clean: Path, tmp_path: Path) -> None:
    """Killed after a few tasks again and again, the run comes to its end, and to the same files."""
    choice, out, kills = random.Random(5), tmp_path / "out", 0
    while True:
        executor = Killed(kills, choice.randint(8, 20))
        try:
            assert run([slide], out, executor, tile=256)[0].exit_code == 0
            break
        except KeyboardInterrupt:
            kills += 1
        assert kills < 40
    assert kills >= 3
    same_results(clean, out / "s")
    assert nothing_temporary(out)


@pytest.mark.parametrize("name", ["overview.npz", "artefacts.npz"])
def test_what_was_damaged_between_a_kill_and_a_resumption_is_made_again(
    slide: Path, clean: Path, tmp_path: Path, name: str
) -> None:
    def stop(task: str) -> None:
        if task == "grade-patches":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([slide], tmp_path / "out", _Watching(stop), tile=256)
    (path,) = (tmp_path / "out").glob(f".work/*/*/{name}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert run([slide], tmp_path / "out", tile=256)[0].exit_code == 0
    same_results(clean, tmp_path / "out" / "s")


class _Watching(ShuffledExecutor):
    """Tells the name of each task before it is submitted."""

    def __init__(self, watch: Callable[[str], None]) -> None:
        super().__init__()
        self.watch = watch

    def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> Future[Any]:
        self.watch(name)
        return super().submit(name, function, argument, urgent)


class _Serial(SerialExecutor):
    """Notes the name of each task."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def submit(self, name: str, function: Any, argument: Any, urgent: bool = False) -> Future[Any]:
        self.names.append(name)
        return super().submit(name, function, argument, urgent)
