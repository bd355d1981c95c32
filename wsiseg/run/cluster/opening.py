"""An executor for the length of a block: on this process, a cluster started for it, or one that is there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import dask
import distributed

from wsiseg.errors import UsageError
from wsiseg.run.cluster.devices import available_cores, resolve_device
from wsiseg.run.cluster.executor import DaskExecutor
from wsiseg.run.cluster.joined import borrow, examine_workers, join, scheduler_address
from wsiseg.run.cluster.local import close, event_loop, forking, revive, start
from wsiseg.run.cluster.logs import silence_libraries
from wsiseg.run.cluster.options import CLUSTERS, ClusterOptions
from wsiseg.run.cluster.page import show_page
from wsiseg.run.cluster.profile import read_profile
from wsiseg.run.cluster.settings import CONFIG
from wsiseg.run.cluster.started import start_cluster
from wsiseg.run.forerunner import workers_environment
from wsiseg.run.schedule import Executor, SerialExecutor


@contextlib.contextmanager
def open_executor(options: ClusterOptions) -> Iterator[Executor]:
    """An executor for the duration of the block: on a cluster started here, or the scheduler's that is named.

    With ``workers`` 0 and no other cluster the tasks run in this process, one after the other, without Dask.

    Raises
    ------
    UsageError
        If the options make no sense.
    EnvironmentFault
        If no cluster can be started or reached, or it has no workers.
    """
    joins = options.scheduler is not None or options.scheduler_file is not None
    _require_one(options, joins)
    if options.workers == 0 and not joins:
        yield SerialExecutor(resolve_device(options.device), available_cores())
        return
    if options.performance_report is not None and not options.performance_report.absolute().parent.is_dir():
        raise UsageError(f"{options.performance_report}: there is no such folder to write the report to")
    with contextlib.ExitStack() as stack:
        if isinstance(options.scheduler, distributed.Client):
            client = options.scheduler
            executor = DaskExecutor(client, *borrow(client, options.device), guarded=True)
        else:
            client, executor = _open_client(options, joins, stack)
        show_page(client)
        if options.performance_report is not None:
            stack.enter_context(client.as_current())
            stack.enter_context(
                distributed.performance_report(filename=str(options.performance_report), stacklevel=0)
            )
        yield executor


def _require_one(options: ClusterOptions, joins: bool) -> None:
    """Refuse what names two clusters, or none that there is.

    Raises
    ------
    UsageError
    """
    if options.cluster not in CLUSTERS:
        raise UsageError(f"--cluster {options.cluster!r}: expected one of {', '.join(CLUSTERS)}")
    if options.cluster != "local" and joins:
        raise UsageError(
            f"--cluster {options.cluster} starts a cluster, --scheduler and --scheduler-file join one. Give one of "
            "them."
        )
    if options.cluster != "local" and options.workers == 0:
        raise UsageError(
            f"--workers 0: runs without a cluster; --cluster {options.cluster} needs one worker or more."
        )
    if options.cluster == "local" and options.profile is not None:
        raise UsageError("--cluster-profile: --cluster local has no profile. Say which cluster to start.")


def _open_client(
    options: ClusterOptions, joins: bool, stack: contextlib.ExitStack
) -> tuple[distributed.Client, DaskExecutor]:
    """A client of the cluster that the options name or that is started, closed with ``stack``."""
    profile = read_profile(options.cluster, options.profile) if options.cluster != "local" else None
    silence_libraries()
    stack.enter_context(dask.config.set(CONFIG))
    loop = stack.enter_context(event_loop())
    if joins:
        client, slots, device = join(scheduler_address(options), options.device, loop)
        stack.callback(client.close, timeout=2)
        return client, DaskExecutor(client, slots, device, guarded=True)
    if profile is None:
        stack.enter_context(workers_environment())
        stack.enter_context(forking(options))
        cluster, slots, device = start(options, loop)
        stack.callback(close, cluster)
        stack.callback(revive(cluster, loop).stop)
        client = distributed.Client(cluster, set_as_default=False)
        stack.callback(client.close, timeout=2)
        return client, DaskExecutor(client, slots, device, cores=slots)
    started = start_cluster(options, profile, loop, stack)
    client = distributed.Client(started.cluster, set_as_default=False)
    stack.callback(client.close, timeout=2)
    name, wait = f"--cluster {options.cluster}", started.patience_s
    slots, device = examine_workers(client, name, options.device, loop, wait)
    return client, DaskExecutor(client, slots, device, most=started.most, guarded=True, patience_s=wait)
