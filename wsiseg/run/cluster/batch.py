"""Clusters whose workers are jobs of a batch system, by dask-jobqueue: SLURM, PBS, LSF, SGE."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

import dask
from tornado.ioloop import PeriodicCallback

from wsiseg.run.cluster.profile import Profile, seconds, walltime_s
from wsiseg.run.cluster.settings import WORKER_ENVIRONMENT

CLASSES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
"""Of dask-jobqueue, by the names of ``--cluster``."""
_LONGEST_MARGIN_S = 600.0
_GONE_S = 30.0
"""A job whose workers have all been away for so long has ended."""
_ADAPTIVE = {"interval": "5 s", "wait_count": 24}
"""A job is given back when it has had nothing to do for two minutes: the next may have to queue for hours."""


def job_options(cluster: str, profile: Profile, dashboard: str) -> dict[str, Any]:
    """What dask-jobqueue is told: the profile's options, and what wsiseg needs beside them.

    As many processes as cores share a machine better than threads do. Workers leave in order before their job's
    walltime; their own pages listen on their machine alone.
    """
    given = dict(profile.options)

    def said(name: str) -> Any:
        return given.get(name.replace("-", "_"), dask.config.get(f"jobqueue.{cluster}.{name}", None))

    environment = [f"export {name}={value}" for name, value in WORKER_ENVIRONMENT.items()]
    spawned = shlex.quote(repr(WORKER_ENVIRONMENT))
    environment.append(f"export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON={spawned}")
    arguments = ["--dashboard-address", "127.0.0.1:0", *_lifetime(cluster, profile, said("walltime"))]
    return {
        **given,
        "processes": int(said("processes") or said("cores") or 1),
        "job_script_prologue": [*environment, *(said("job-script-prologue") or ())],
        "worker_extra_args": [*arguments, *(said("worker-extra-args") or ())],
        "scheduler_options": {**(said("scheduler-options") or {}), "dashboard_address": dashboard},
    }


def _lifetime(cluster: str, profile: Profile, walltime: str | None) -> list[str]:
    """A worker's arguments by which it leaves before its job is killed, not all in the same second."""
    whole = walltime_s(walltime, cluster) if walltime else None
    if whole is None:
        return []
    margin = seconds(profile.margin, "margin") or min(_LONGEST_MARGIN_S, whole / 10)
    lifetime, stagger = whole - margin, margin / 4
    if lifetime - stagger <= 0:
        return []
    return ["--lifetime", f"{lifetime:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]


def scale_jobs(cluster: Any, processes: int, profile: Profile, workers: int | None) -> int:
    """Let the jobs grow and shrink with the work, or keep ``workers`` processes; how many there may be at most."""
    least = profile.minimum * processes if workers is None else workers
    most = profile.maximum * processes if workers is None else workers
    cluster.adapt(minimum=least, maximum=most, worker_key=_job_of, **_ADAPTIVE)
    return most


def _job_of(worker: Any) -> str:
    """What workers of one job have in common: they go together or not at all."""
    return str(worker.name).rpartition("-")[0]


class EndedJobs:
    """Notices jobs that have ended, so that adaptive scaling asks for others.

    Dask's clusters do so for jobs of one worker process; those of several it never misses.
    """

    def __init__(self) -> None:
        self._seen: set[Any] = set()
        self._gone_since: dict[Any, float] = {}

    def among(self, jobs: Mapping[Any, Mapping[str, Any]], present: set[str], now: float) -> list[Any]:
        """Jobs that had workers and have none any more.

        Parameters
        ----------
        jobs : mapping
            Name of a job to its specification, whose "group" are the suffixes of its workers' names.
        present : set of str
            The names of the workers that there are.
        now : float
            Seconds of a clock.
        """
        ended = []
        for name, specification in jobs.items():
            if present & {f"{name}{suffix}" for suffix in specification.get("group", ("",))}:
                self._seen.add(name)
                self._gone_since.pop(name, None)
            elif name in self._seen and now - self._gone_since.setdefault(name, now) >= _GONE_S:
                ended.append(name)
                self._seen.discard(name)
                del self._gone_since[name]
        return ended


def replace_ended(cluster: Any, loop: Any) -> PeriodicCallback:
    """Forget jobs that have ended for as long as the callback that is returned runs."""
    ended = EndedJobs()

    async def look() -> None:
        present = {str(worker.name) for worker in cluster.scheduler.workers.values()}
        known = {name: cluster.worker_spec[name] for name in cluster.workers if name in cluster.worker_spec}
        for name in ended.among(known, present, time.monotonic()):
            await cluster.workers.pop(name).close()

    callback = PeriodicCallback(look, 5000)
    loop.add_callback(callback.start)
    return callback
