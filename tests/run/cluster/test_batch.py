"""Clusters of jobs: what dask-jobqueue makes of a profile, and jobs that end."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from wsiseg.errors import UsageError
from wsiseg.run.cluster import ClusterOptions, batch, open_executor
from wsiseg.run.cluster.batch import CLASSES, EndedJobs, job_options
from wsiseg.run.cluster.profile import Profile
from wsiseg.run.cluster.settings import WORKER_ENVIRONMENT

HEADERS = {
    "slurm": ["#SBATCH -p gpu", "#SBATCH --cpus-per-task=8", "#SBATCH --mem=30G", "#SBATCH -t 02:00:00"],
    "pbs": ["#PBS -q gpu", "#PBS -l walltime=02:00:00"],
    "sge": ["#$ -q gpu", "#$ -l h_rt=02:00:00"],
    "lsf": ["#BSUB -q gpu", "#BSUB -n 8", "#BSUB -W 02:00"],
}


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """dask-jobqueue takes it for itself when a test imports it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def script(cluster: str, told: dict[str, Any]) -> str:
    """The job that the library would submit."""
    library = pytest.importorskip("dask_jobqueue")
    job_class = getattr(library, CLASSES[cluster]).job_cls
    options = {name: value for name, value in told.items() if name != "scheduler_options"}
    return str(job_class("tls://head:1", name="w-0", **options).job_script())


@pytest.mark.parametrize("cluster", list(HEADERS))
def test_a_profile_becomes_the_job_of_its_batch_system(cluster: str) -> None:
    walltime = "02:00" if cluster == "lsf" else "02:00:00"
    options = {"queue": "gpu", "cores": 8, "memory": "32 GB", "walltime": walltime}
    if cluster == "lsf":
        options["lsf_units"] = "mb"
    told = job_options(cluster, Profile(options=options), "127.0.0.1:8787")
    text = script(cluster, told)
    for line in HEADERS[cluster]:
        assert line in text
    worker = shlex.split(text.splitlines()[-1])
    for name, value in {
        "--nthreads": "1",
        "--nworkers": "8",
        "--memory-limit": "3.73GiB",
        "--lifetime": "6600s",
        "--lifetime-stagger": "150s",
        "--dashboard-address": "127.0.0.1:0",
    }.items():
        assert worker[worker.index(name) + 1] == value
    assert told["scheduler_options"]["dashboard_address"] == "127.0.0.1:8787"
    assert "export OMP_NUM_THREADS=1" in text


def test_a_jobs_nanny_keeps_the_heap_as_a_local_one_does() -> None:
    """Dask reads the settings of its own from the environment of the job."""
    told = job_options("slurm", Profile(), "127.0.0.1:0")
    (line,) = [line for line in told["job_script_prologue"] if "PRE_SPAWN" in line]
    name, _, value = shlex.split(line)[1].partition("=")
    read = dask.config.collect_env({name: value})
    assert dask.config.get("distributed.nanny.pre-spawn-environ", config=read) == WORKER_ENVIRONMENT


def test_what_the_profile_or_dask_says_comes_after_what_wsiseg_adds() -> None:
    options = {
        "job_script_prologue": ["module load cuda"],
        "worker_extra_args": ["--lifetime", "1m"],
        "processes": 2,
    }
    config = {"jobqueue.slurm.cores": 6, "jobqueue.slurm.scheduler-options": {"interface": "ib0"}}
    with dask.config.set(config):
        told = job_options("slurm", Profile(options=options), "127.0.0.1:0")
        assert job_options("slurm", Profile(), "127.0.0.1:0")["processes"] == 6
    assert told["job_script_prologue"][-1] == "module load cuda"
    assert told["worker_extra_args"][-2:] == ["--lifetime", "1m"]
    assert told["processes"] == 2
    assert told["scheduler_options"] == {"interface": "ib0", "dashboard_address": "127.0.0.1:0"}


def test_a_margin_is_the_profiles() -> None:
    profile = Profile(margin="20 minutes", options={"walltime": "01:00:00"})
    arguments = job_options("pbs", profile, "127.0.0.1:0")["worker_extra_args"]
    assert arguments[2:] == ["--lifetime", "2400s", "--lifetime-stagger", "300s"]


def test_a_job_has_ended_when_all_its_workers_have_been_away_for_a_while() -> None:
    ended = EndedJobs()
    jobs: dict[Any, Any] = {"j-0": {"group": ["-0", "-1"]}, "j-1": {"group": ["-0", "-1"]}, "j-2": {}}
    assert ended.among(jobs, set(), 0.0) == []  # all of them queue
    assert ended.among(jobs, {"j-0-0", "j-0-1", "j-2"}, 1000.0) == []
    assert ended.among(jobs, {"j-0-1"}, 1010.0) == []
    assert ended.among(jobs, set(), 1020.0) == []
    assert ended.among(jobs, {"j-0-0"}, 1041.0) == ["j-2"]
    assert ended.among(jobs, set(), 1042.0) == []  # j-0 was there again
    assert ended.among(jobs, set(), 1072.0) == ["j-0"]
    assert ended.among(jobs, set(), 2000.0) == []


def test_what_the_library_does_not_know_is_a_usage_error(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    path = tmp_path / "wsiseg.toml"
    path.write_text(
        "[cluster.slurm]\ntls = false\n[cluster.slurm.options]\ncolour = 'red'\ncores = 1\nmemory = '1GB'"
    )
    options = ClusterOptions(cluster="slurm", profile=path, dashboard="127.0.0.1:0")
    with pytest.raises(UsageError, match=r"slurm.*colour.*cluster.slurm.options"), open_executor(options):
        pass
    path.write_text("[cluster.slurm]\ntls = false\n")
    with pytest.raises(UsageError, match=r"cores and memory"), open_executor(options):
        pass


SBATCH = """#!/bin/bash
echo "$1" >> "{folder}/submitted"
cp "$1" "{folder}/job-$$.sh"
setsid bash "{folder}/job-$$.sh" > "{folder}/job-$$.log" 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
kill -- "-$1"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch system of this machine alone; the folder that tells what was submitted."""
    pytest.importorskip("dask_jobqueue")
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        path = tmp_path / name
        path.write_text(text.format(folder=tmp_path))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def place(_: int) -> tuple[str, str]:
    import time

    time.sleep(0.5)
    return os.environ["OMP_NUM_THREADS"], os.environ["MALLOC_TRIM_THRESHOLD_"]


@pytest.mark.slow
def test_a_run_on_jobs_that_leave_before_their_walltime(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encrypted, of two processes each; the jobs live for seconds, and others take their place."""
    pytest.importorskip("cryptography")
    monkeypatch.setattr(batch, "_GONE_S", 1.0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # the tests' own setting is not to reach the jobs
    (slurm / "wsiseg.toml").write_text(
        f"""
[cluster.slurm]
maximum = 1
shared = "{slurm}"
margin = "4s"
[cluster.slurm.options]
cores = 2
memory = "4GB"
walltime = "00:00:18"
scheduler_options = {{ host = "127.0.0.1" }}
"""
    )
    options = ClusterOptions(cluster="slurm", profile=slurm / "wsiseg.toml", device="cpu", dashboard="127.0.0.1:0")
    with open_executor(options) as executor:
        assert executor.window == 5
        assert executor._client.scheduler.address.startswith("tls://127.0.0.1:")  # type: ignore[attr-defined]
        keys = list(slurm.glob(".wsiseg-tls-*/*.pem"))
        assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
        found = list(executor.map_bounded(place, range(60), "place"))
    assert found == [("1", WORKER_ENVIRONMENT["MALLOC_TRIM_THRESHOLD_"])] * 60
    assert len((slurm / "submitted").read_text().splitlines()) >= 2
    assert not list(slurm.glob(".wsiseg-tls-*"))
