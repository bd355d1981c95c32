"""The page in Dask's dashboard, and Prometheus."""

from __future__ import annotations

import asyncio
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tornado.web import Application

from wsiseg.run.cluster import ClusterOptions, open_executor, page
from wsiseg.run.pipeline import segment_slides
from wsiseg.testing import write_slide
from wsiseg.tiles.request import SegmentOptions


def fetch(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return str(answer.read().decode())


def test_a_run_is_on_the_page_and_in_the_metrics(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.svs", width=1024, height=1024, layout="dense", seed=4)
    with open_executor(ClusterOptions(workers=1, device="cpu", dashboard="127.0.0.1:0")) as executor:
        assert executor.dashboard is not None
        base = executor.dashboard.removesuffix("/status")
        assert "Wsiseg" in fetch(base + "/status")  # the way there
        segment_slides([tmp_path / "a.svs"], tmp_path / "out", SegmentOptions("classical", 512), executor)
        client: Any = executor._client  # type: ignore[attr-defined]
        until = time.monotonic() + 10
        while not (events := client.get_events("wsiseg")) or not events[-1][1]["slides_ended"]:
            assert time.monotonic() < until
            time.sleep(0.1)
        shown = events[-1][1]
        assert shown["tiles_done"] == shown["tiles_total"] > 0
        assert shown["nuclei"] > 0
        assert shown["pixels"] >= 512**2
        assert {"read", "infer", "measure", "write"} <= set(shown["seconds"])
        assert "wsiseg" in fetch(base + "/wsiseg")
        workers = client.run(lambda dask_worker: [str(name) for name in dask_worker.digests_total])
        (activities,) = workers.values()
        assert any("infer" in str(name) for name in activities)  # Dask's own metrics tell them apart as well
        pytest.importorskip("prometheus_client")
        metrics = fetch(base + "/metrics")
        assert "\nwsiseg_slides_ended 1.0\n" in metrics
        assert f"\nwsiseg_nuclei {float(shown['nuclei'])}\n" in metrics
        assert 'wsiseg_worker_seconds_total{activity="read"}' in metrics
        assert "dask_scheduler_workers" in metrics


def test_without_bokeh_the_page_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed.dashboard.core", None)
    monkeypatch.setattr(page, "_publish_metrics", lambda scheduler: None)
    added: list[Application] = []
    scheduler: Any = SimpleNamespace(http_application=SimpleNamespace(add_application=added.append))
    asyncio.run(page.DashboardPage().start(scheduler))
    (application,) = added
    (rule,) = application.wildcard_router.rules
    assert "pip install 'bokeh" in rule.target_kwargs["text"]


def test_names_are_shown_and_not_obeyed() -> None:
    shown = {
        "slides": 1, "slides_ended": 1, "tiles_done": 1, "tiles_total": 1, "nuclei": 1, "mpx_s": 1.0,
        "mpx_s_mean": 1.0, "tiles_failed": 0, "statuses": {}, "grades": {"<b>": 1},
    }  # fmt: skip
    assert "<b>" not in page._head(shown)
    assert page._notes(["<script>"]) == "&lt;script&gt;"
