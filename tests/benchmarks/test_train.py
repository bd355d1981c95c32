"""`benchmarks/train.py` measures the training's own parts, with batches by threads and with deferred colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")

from wsiseg.models.engine.engine import Placement
from wsiseg.testing.training import TABLES
from wsiseg.train.batches import batches
from wsiseg.train.loop import Machine
from wsiseg.train.plan import plan_training
from wsiseg.train.recipe import parse_recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("offload", [False, True])
def test_a_line_holds_rates_and_their_ratios(
    load_benchmark: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offload: bool
) -> None:
    bench = load_benchmark("train")
    monkeypatch.setattr(bench, "loaded_batches", batches)  # no process is started for a test
    monkeypatch.setattr("wsiseg.train.loop.loaded_batches", batches)
    recipe = parse_recipe(TABLES)
    machine = Machine(Placement("cpu", "fp32", 1), checkpoint_s=1e9, offload=offload)
    pool = bench.drawn_pool(tmp_path / "pool", 64)
    line = bench.measure(machine, recipe, plan_training(recipe), pool, 0.05)
    assert line["on"] == "cpu fp32"
    assert line["batches_by"] == ("1 processes" if offload else "1 threads")
    rates = line["patches_per_s"]
    assert min(rates.values()) > 0
    assert line["headroom"] == pytest.approx(rates["loader"] / rates["step"], rel=0.05, abs=0.02)
    assert line["ratio"] == pytest.approx(rates["loop"] / rates["step"], rel=0.05, abs=0.02)
