"""How Dask is set up where wsiseg starts it."""

from __future__ import annotations

from wsiseg.run.forerunner import WORKER_ENVIRONMENT

CONFIG = {
    "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    "distributed.worker.daemon": True,
    # Two deaths of its workers, and a task is tried alone (run/isolation.py): each costs seconds of starting anew.
    "distributed.scheduler.allowed-failures": 1,
    # A worker that is not back by then is given up for good, with its nanny. On a busy machine a start takes longer
    # than the 15 s of the default, and a run would lose its workers one by one.
    "distributed.deploy.lost-worker-timeout": "1 day",
    # A finished task's record is of no further use to anybody; the default keeps 100,000 of them. As many profiles
    # of a worker are kept, a tree of calls for each cycle: a second long each they grew by .24 MiB a second.
    "distributed.admin.low-level-log-length": 100,
    "distributed.worker.profile.cycle": "1 minute",
}
