"""How busy devices are: sampled from what workers report, and in the record of a slide."""

from __future__ import annotations

import json
import time
from pathlib import Path

import distributed
import pytest

from wsiseg.run.cluster.busy import device_share
from wsiseg.run.cluster.executor import DaskExecutor
from wsiseg.run.pipeline import segment_slides
from wsiseg.testing import write_slide
from wsiseg.tiles.request import SegmentOptions


def test_the_share_is_the_mean_of_the_workers_that_measure_it() -> None:
    workers = {"a": {"metrics": {"gpu": {"utilization": 20}}}, "b": {"metrics": {"gpu": {"utilization": 60}}}}
    assert device_share({"workers": workers}) == pytest.approx(0.4)
    assert device_share({"workers": {**workers, "c": {"metrics": {}}}}) == pytest.approx(0.4)
    assert device_share({"workers": {"c": {"metrics": {}}, "d": {}}}) is None
    assert device_share({"workers": {"c": {"metrics": {"gpu": {"utilization": None}}}}}) is None


def test_what_workers_measure_is_in_the_record_and_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a measurement in the driver's place: a worker that says that its device is 40% busy."""
    monkeypatch.setattr("wsiseg.run.cluster.busy._SAMPLE_MS", 20)
    write_slide(tmp_path / "a.svs", width=768, height=768, layout="dense", seed=4)
    gauge = {"gpu": lambda worker: {"utilization": 40, "memory-used": 1 << 30}}
    options = SegmentOptions("classical", 256)
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None, metrics=gauge) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert DaskExecutor(client, 1, "cpu").device_busy(0.0) is None
        executor = DaskExecutor(client, 1, "auto")  # as of workers elsewhere
        began = time.perf_counter()
        segment_slides([tmp_path / "a.svs"], tmp_path / "out", options, executor)
        assert executor.device_busy(began) == pytest.approx(0.4)
        assert executor.device_busy(time.perf_counter() + 60) is None
        events = client.get_events("wsiseg")
    assert events[-1][1]["device_busy"] == pytest.approx(0.4)
    record = json.loads((tmp_path / "out" / "a" / "slide.json").read_text())
    assert record["performance"]["device_busy"] == pytest.approx(0.4)
