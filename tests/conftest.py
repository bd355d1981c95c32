"""Slides and training data that several test files share, and the real data where they are."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wsiseg.testing import Truth, write_slide

RealData = Callable[[str], Path]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Say of what a process of tests died: xdist only says that it did."""
    if error:
        print(f"\n{node.gateway.id} ended with {node.gateway._io.popen.wait(10)}", file=sys.stderr, flush=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of ``docs``, ``benchmarks`` and the packages' sources."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data(repository: Path) -> RealData:
    """The path of a real file or folder, by its name; the test is skipped where that is absent."""

    def find(name: str) -> Path:
        path = repository.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"{name} is not beside this checkout (../shared/data)")
        return path

    return find


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an empty S3 server on this machine, which the environment points to."""
    kind = pytest.importorskip("s3fs").S3FileSystem
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "none"), ("AWS_SECRET_ACCESS_KEY", "none"), ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        kind.clear_instance_cache()  # those of an earlier server
        yield kind(skip_instance_cache=True)
    finally:
        kind.clear_instance_cache()
        server.stop()


@pytest.fixture(scope="session")
def load_benchmark(repository: Path) -> Callable[[str], ModuleType]:
    """The functions of a script of ``benchmarks``, which is no package, without running it."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, repository / "benchmarks" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """A synthetic slide of 3072² pixels with touching nuclei on every multiple of 1024, and its truth."""
    path = tmp_path_factory.mktemp("drawn") / "drawn.svs"
    return path, write_slide(path, width=3072, height=3072, layout="seams", seed=3)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Of torch: small networks on many threads wait more than they compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def few_patches() -> Iterator[None]:
    """For runs whose grade nobody looks at: two patches of a slide are judged."""
    from wsiseg.qc.patches import sample_patches

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsiseg.qc.blocks.sample_patches", lambda placed: sample_patches(placed, 2))
        yield


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five images with labels, a to e, and tables of their names."""
    from wsiseg.testing.training import write_folder

    return write_folder(tmp_path_factory.mktemp("pairs") / "annotated")


@pytest.fixture(scope="session")
def patch_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of forty patches with weights from 0.2 to 2."""
    from wsiseg.testing.training import write_dataset

    return write_dataset(tmp_path_factory.mktemp("dataset") / "patches.zarr")


@pytest.fixture(scope="session")
def drawn_results(drawn: tuple[Path, Truth], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``wsiseg segment`` makes of the drawn slide."""
    from wsiseg.run.pipeline import segment_slides
    from wsiseg.run.schedule import SerialExecutor
    from wsiseg.tiles.request import SegmentOptions

    out = tmp_path_factory.mktemp("results")
    options = SegmentOptions("classical", tile=512)
    assert segment_slides([drawn[0]], out, options, SerialExecutor(), lambda event: None).exit_code == 0
    return out
