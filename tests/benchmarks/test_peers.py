"""`benchmarks/peers`: what a run takes is summed over its processes, and the table says where a peer is better."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from wsiseg.testing import write_slide

_HELD_MIB = 150
_PROGRAM = f"""
import subprocess, sys, time
held = bytearray({_HELD_MIB} << 20)
held[:: 4096] = b"x" * len(held[:: 4096])
if len(sys.argv) == 1:
    child = subprocess.Popen([sys.executable, sys.argv[0], "child"])
    assert child.wait() == 0
else:
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
"""


@pytest.fixture
def peers(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("peers/compare")


def test_memory_and_processor_time_are_those_of_all_processes(peers: ModuleType, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    measured = peers.watch([sys.executable, str(program)])
    assert 2 * _HELD_MIB < measured.peak_mib < 4 * _HELD_MIB
    assert measured.cpu_s >= 0.5


def test_a_program_that_fails_ends_the_comparison_with_its_words(peers: ModuleType) -> None:
    with pytest.raises(SystemExit, match="ended with 3:\nno slide"):
        peers.watch([sys.executable, "-c", "import sys; print('no slide', file=sys.stderr); sys.exit(3)"])


def test_the_table_says_where_the_peer_is_better(peers: ModuleType) -> None:
    ours, other = peers.Measured(10, 20, 1000, 500), peers.Measured(20, 10, 500, 400)
    text = peers.table("other", "unet-0.5", [(ours, other)] * 3)
    assert "| wsiseg, unet-0.5 | 10.0 | 20.0 | 1000 | 500 |" in text
    assert "| other / wsiseg | 2.00 | 0.50 | 0.50 | |" in text
    assert text.endswith("**other is better in CPU (0.50 of wsiseg's), peak memory (0.50 of wsiseg's).**")
    assert peers.table("other", "unet-0.5", [(other, peers.Measured(30, 30, 900))]).endswith("none of these.")


def test_ratios_are_those_of_pairs(peers: ModuleType) -> None:
    """A minute in which the machine was busy slows both programs of a pair, and no ratio."""
    pairs = [(peers.Measured(s, s, 100), peers.Measured(2 * s, 2 * s, 200)) for s in (1, 50, 2)]
    assert "| other / wsiseg | 2.00 | 2.00 | 2.00 | |" in peers.table("other", "unet-0.5", pairs)


def test_nothing_is_downloaded_unless_it_is_asked_for(peers: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--install it is downloaded \(about 1.1 GB"):
        peers.environment_of("histomicstk", tmp_path, install=False)
    assert not list(tmp_path.iterdir())
    assert peers.environment_of("map-overlap", tmp_path, install=False) == Path(sys.executable)


@pytest.mark.slow
def test_map_overlap_finds_the_drawn_nuclei(repository: Path, tmp_path: Path) -> None:
    slide = tmp_path / "slide.svs"
    truth = write_slide(slide, width=600, height=520, layout="dense")
    script = repository / "benchmarks" / "peers" / "map_overlap.py"
    said = subprocess.run(
        [sys.executable, str(script), str(slide), str(tmp_path / "found.parquet")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = int(said.stdout.split()[-1].rstrip("}"))
    assert 0.6 * len(truth.nuclei) <= found <= 1.2 * len(truth.nuclei)
