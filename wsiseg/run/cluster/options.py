"""What a caller may say about where the tasks run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import distributed

CLUSTERS = ("local", "cuda", "slurm", "pbs", "lsf", "sge", "kubernetes", "ssh")
Scheduler: TypeAlias = "str | distributed.Client"


@dataclass(frozen=True)
class ClusterOptions:
    """How to run.

    Attributes
    ----------
    scheduler : str, distributed.Client or None
        Address of a running scheduler to join (``tcp://host:port``), or a client that is connected to one; None
        starts a cluster on this machine.
    workers : int or None
        Worker processes. Of the local cluster, None: one a core, of which those on a CUDA device share it as far as
        it has memory (:func:`wsiseg.run.cluster.devices.dealt_devices`); 0: none, the tasks run in this process. Of
        another, None: as many as its profile lets it have.
    device : {"auto", "cpu", "cuda"}
        What the workers compute on.
    dashboard : str
        ``host:port`` of the local cluster's dashboard, on a loopback address; port 0 takes any free one.
    memory_limit : str
        Per worker, as Dask writes it ("auto", "8GiB"); a worker above it is restarted.
    performance_report : Path or None
        Where to write Dask's performance report (HTML).
    scheduler_file : Path or None
        What ``dask scheduler --scheduler-file`` wrote: its address is joined.
    cluster : {"local", "cuda", "slurm", "pbs", "lsf", "sge", "kubernetes", "ssh"}
        What is started where no scheduler is named.
    profile : Path or None
        The file that says how, in its table ``[cluster.NAME]`` (:mod:`wsiseg.run.cluster.profile`). None:
        ``wsiseg.toml`` here or in ``~/.config/wsiseg``, where there is one.
    forked : bool
        Workers of the local cluster are forked from a process that has imported what segmenting needs
        (:mod:`wsiseg.run.forerunner`), where the system lets them; its environment is that of its start.
    """

    scheduler: Scheduler | None = None
    workers: int | None = None
    device: str = "auto"
    dashboard: str = "127.0.0.1:8787"
    memory_limit: str = "auto"
    performance_report: Path | None = None
    scheduler_file: Path | None = None
    cluster: str = "local"
    profile: Path | None = None
    forked: bool = False
