"""Clusters and the executor that runs tasks on them: the only modules that import ``distributed``."""

from wsiseg.run.cluster.devices import local_workers, resolve_device
from wsiseg.run.cluster.executor import DaskExecutor
from wsiseg.run.cluster.opening import open_executor
from wsiseg.run.cluster.options import ClusterOptions, Scheduler

__all__ = [
    "ClusterOptions",
    "DaskExecutor",
    "Scheduler",
    "local_workers",
    "open_executor",
    "resolve_device",
]
