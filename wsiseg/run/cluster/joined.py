"""Clusters that others have started: their scheduler's address, its file, or a client of theirs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import distributed
from distributed.utils import sync

from wsiseg.errors import EnvironmentFault, UsageError
from wsiseg.run.cluster import patience
from wsiseg.run.cluster.devices import cuda_devices
from wsiseg.run.cluster.options import ClusterOptions
from wsiseg.version import __version__

_LONGEST_SCHEDULER_FILE = 1_000_000  # bytes; one entry a worker


def scheduler_address(options: ClusterOptions) -> str:
    """Where the scheduler is that the options name."""
    if options.scheduler_file is None:
        assert isinstance(options.scheduler, str)
        return options.scheduler
    if options.scheduler is not None:
        raise UsageError("--scheduler and --scheduler-file both name a scheduler. Give one of them.")
    return _read_scheduler_file(options.scheduler_file)


def _read_scheduler_file(path: Path) -> str:
    """The address in a file of Dask's; a scheduler that is just being started has not written it yet."""
    until = time.monotonic() + patience.CONNECT_S
    while True:
        try:
            if path.exists() and not path.is_file():
                raise UsageError(f"--scheduler-file {path}: is no file")
            with path.open("rb") as stream:
                content = json.loads(stream.read(_LONGEST_SCHEDULER_FILE))
            address = content["address"]
            if not isinstance(address, str):
                raise TypeError(f"address is {address!r}")
            return address
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if time.monotonic() < until:
                time.sleep(0.2)
                continue
            raise EnvironmentFault(
                f"--scheduler-file {path}: has no address of a scheduler after {patience.CONNECT_S:.0f} s "
                f"({error}). Expected what `dask scheduler --scheduler-file {path}` writes, on a disk that this "
                "machine sees."
            ) from error


def join(address: str, device: str, loop: Any) -> tuple[distributed.Client, int, str]:
    _require_scheduler(address, loop)
    try:
        client = distributed.Client(address, timeout=patience.CONNECT_S, set_as_default=False, loop=loop)
    except Exception as error:  # what a scheduler of another version makes Dask raise is anything
        raise EnvironmentFault(f"cannot join the Dask scheduler at {address}: {_reason(error)}.") from error
    try:
        slots, device = examine_workers(client, address, device, loop)
        return client, slots, device
    except BaseException:
        client.close(timeout=2)
        raise


def borrow(client: distributed.Client, device: str) -> tuple[int, str]:
    """A caller's own client, which stays open: slots and device.

    Raises
    ------
    UsageError, EnvironmentFault
    """
    if client.asynchronous:
        raise UsageError(
            "scheduler=: an asynchronous Client. Expected an ordinary one, or the scheduler's address: "
            "client.scheduler.address"
        )
    if client.status != "running" or client.scheduler is None:
        raise EnvironmentFault(f"scheduler=: the Client is {client.status}. Connect a new one to its cluster.")
    return examine_workers(client, str(client.scheduler.address), device, client.loop)


def _require_scheduler(address: str, loop: Any) -> None:
    """Refuse what does not answer as a scheduler does: a Client would wait for it for ever.

    Raises
    ------
    EnvironmentFault
    """

    async def ask() -> Any:
        security = distributed.Security().get_connection_args("client")  # as Dask's configuration says
        async with distributed.rpc(address, timeout=patience.CONNECT_S, connection_args=security) as remote:
            return await remote.identity()

    try:
        found = sync(loop, ask, callback_timeout=patience.CONNECT_S)
        if not isinstance(found, dict) or "workers" not in found:
            raise TypeError("something else answers there")
    except Exception as error:  # a server of another kind may answer anything, and Dask then raise anything
        raise EnvironmentFault(
            f"no Dask scheduler answers at {address!r} within {patience.CONNECT_S:.0f} s ({_reason(error)}). "
            "Expected an address such as tcp://host:8786 of a running `dask scheduler`."
        ) from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return text or type(error).__name__


def examine_workers(
    client: distributed.Client, address: str, device: str, loop: Any, patience_s: float | None = None
) -> tuple[int, str]:
    """How many tasks a cluster's workers run at once, and what on, if they can run ours and are alike.

    The first is waited for ``patience_s``, by default :data:`wsiseg.run.cluster.patience.NO_WORKERS_S`.
    """
    waited = patience_s or patience.NO_WORKERS_S

    async def ask() -> list[tuple[str, bool]]:
        found = await client.run(_worker_facts, device != "cpu", asynchronous=True)
        return list(found.values())

    try:
        client.wait_for_workers(1, timeout=waited)
        found = sync(
            loop, ask, callback_timeout=patience.NO_WORKERS_S
        )  # a worker that is stopped would never answer
    except (OSError, TimeoutError) as error:
        raise EnvironmentFault(
            f"the scheduler at {address} has had no worker for {waited:.0f} s that answers. Start some: "
            f"`dask worker {address}`."
        ) from error
    except ImportError as error:
        raise EnvironmentFault(f"the workers of {address} cannot import wsiseg; install it there.") from error
    versions = ", ".join(sorted({version for version, _ in found}))
    if versions != __version__:
        raise EnvironmentFault(f"the workers of {address} have wsiseg {versions}; this is {__version__}.")
    with_cuda = sum(cuda for _, cuda in found)
    if device != "cpu" and 0 < with_cuda < len(found):
        raise EnvironmentFault(
            f"{with_cuda} of the {len(found)} workers of {address} have a CUDA device: nuclei of one slide would "
            "be of two kinds.\nUse --device cpu, or workers of one kind."
        )
    if device == "cuda" and not with_cuda:
        raise EnvironmentFault(f"--device cuda: no worker of {address} has a CUDA device. Use --device cpu.")
    return sum(client.nthreads().values()), "cuda" if with_cuda else "cpu"


def _worker_facts(cuda: bool) -> tuple[str, bool]:
    """A worker's version and, if that is asked, whether it has a CUDA device."""
    return __version__, cuda and cuda_devices() > 0
