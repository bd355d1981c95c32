"""How busy the devices of workers are, as Dask measures it by NVML (where ``nvidia-ml-py`` is there)."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import distributed
from tornado.ioloop import PeriodicCallback

_SAMPLE_MS = 1000
_KEPT = 24 * 3600
"""Samples: a slide that takes longer has the mean of its last day."""


class DeviceUse:
    """The share of the time in which the workers' devices compute, sampled once a second while a client lives.

    A worker reports the use of its device with each heartbeat; workers that share one report the same.
    """

    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self._samples: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._ticking = PeriodicCallback(self._sample, _SAMPLE_MS)
        loop: Any = client.loop
        loop.add_callback(self._ticking.start)

    def mean(self, since: float) -> float | None:
        """The mean from a time of ``time.perf_counter`` on, 0 to 1; None where no device was measured."""
        shares = [share for at, share in list(self._samples) if at >= since]
        return statistics.fmean(shares) if shares else None

    async def _sample(self) -> None:
        if self._client.status != "running" or self._client.scheduler is None:
            self._ticking.stop()
            return
        with contextlib.suppress(OSError):  # a scheduler that is lost is found out elsewhere
            share = device_share(await self._client.scheduler.identity())
            if share is not None:
                self._samples.append((time.perf_counter(), share))


def device_share(identity: Mapping[str, Any]) -> float | None:
    """The mean share of a scheduler's workers, by what it says of itself; None where none measures it."""
    metrics = [worker.get("metrics", {}).get("gpu") for worker in identity["workers"].values()]
    percent = [one["utilization"] for one in metrics if one and one.get("utilization") is not None]
    return statistics.fmean(percent) / 100 if percent else None
