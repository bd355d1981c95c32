"""A task as it runs on a worker: on one that may run it, its activities told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from distributed.metrics import context_meter

from wsiseg.errors import ClusterLost
from wsiseg.run.cluster.devices import cuda_devices
from wsiseg.version import __version__


@dataclass(frozen=True)
class Attended:
    """A function of one argument, on a worker.

    What its result says of its ``seconds`` (a mapping of activities, as
    :class:`wsiseg.results.partfile.BatchSummary` has) is told to Dask, whose dashboard and metrics then have it.

    Attributes
    ----------
    function : callable
    device : str or None
        What the other workers compute on, where workers may join that wsiseg did not start; None: all are its own.
    version : str
        Of wsiseg, where the task comes from.
    """

    function: Callable[[Any], Any]
    device: str | None = None
    version: str = __version__

    def __call__(self, argument: Any) -> Any:
        """What the function returns.

        Raises
        ------
        ClusterLost
            The worker joined later and is not like the others.
        """
        if self.device is not None:
            self._require_alike()
        result = self.function(argument)
        seconds = getattr(result, "seconds", None)
        if isinstance(seconds, Mapping):
            for activity, value in seconds.items():
                context_meter.digest_metric(activity, value, "seconds")
        return result

    def _require_alike(self) -> None:
        if self.version != __version__:
            raise ClusterLost(
                f"a worker joined that has wsiseg {__version__}; this is {self.version}. Stop it; what is finished "
                "is kept: the same command goes on from there."
            )
        if self.device == "cuda" and not _has_cuda():
            raise ClusterLost(
                "a worker joined that has no CUDA device, unlike the others: nuclei of one slide would be of two "
                "kinds. Stop it; what is finished is kept: the same command goes on from there."
            )


@cache
def _has_cuda() -> bool:
    return cuda_devices() > 0
