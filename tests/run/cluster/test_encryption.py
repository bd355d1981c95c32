"""TLS: certificates of Dask's configuration, else temporary ones."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import dask
import distributed
import pytest

from wsiseg.errors import EnvironmentFault, UsageError
from wsiseg.run.cluster import ClusterOptions, open_executor, patience
from wsiseg.run.cluster.encryption import encrypted


def test_temporary_certificates_are_their_owners_and_go_away(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    with contextlib.ExitStack() as stack:
        security = encrypted(str(tmp_path), stack)
        assert security.require_encryption
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
        assert security.get_connection_args("worker")["ssl_context"] is not None
        assert dask.config.get("distributed.comm.tls.worker.key") == str(folder / "key.pem")
    assert not list(tmp_path.iterdir())
    assert dask.config.get("distributed.comm.tls.worker.key") is None
    with pytest.raises(UsageError, match="no folder"), contextlib.ExitStack() as stack:
        encrypted(str(tmp_path / "absent"), stack)


def test_without_the_library_for_certificates_the_ways_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with (
        pytest.raises(EnvironmentFault, match=r"pip install cryptography.*tls = false"),
        contextlib.ExitStack() as s,
    ):
        encrypted("", s)


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, str]:
    """Dask's configuration of one self-signed certificate for all."""
    words = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out ca.pem -days 2 -subj /CN=cluster"
    try:
        subprocess.run(words.split(), cwd=tmp_path, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl")
    files = {"cert": str(tmp_path / "ca.pem"), "key": str(tmp_path / "key.pem")}
    settings = {
        f"distributed.comm.tls.{role}.{what}": path
        for role in ("client", "scheduler", "worker")
        for what, path in files.items()
    }
    return {**settings, "distributed.comm.tls.ca-file": files["cert"]}


def test_a_scheduler_with_certificates_is_joined_by_those_of_dasks_configuration(
    certificates: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with dask.config.set(certificates):
        security = distributed.Security(require_encryption=True)
        with distributed.LocalCluster(
            n_workers=1, protocol="tls://", security=security, dashboard_address="127.0.0.1:0"
        ) as cluster:
            options = ClusterOptions(scheduler=cluster.scheduler_address)
            assert cluster.scheduler_address.startswith("tls://")
            with contextlib.ExitStack() as stack:
                assert encrypted("", stack).tls_ca_file == certificates["distributed.comm.tls.ca-file"]
            with open_executor(options) as executor:
                assert sorted(executor.map_bounded(abs, range(-4, 0), "abs")) == [1, 2, 3, 4]
            monkeypatch.setattr(patience, "CONNECT_S", 2.0)
            without = dict.fromkeys(certificates, None)
            began = time.monotonic()
            with (
                dask.config.set(without),
                pytest.raises(EnvironmentFault, match="no Dask scheduler"),
                open_executor(options),
            ):
                pass
            assert time.monotonic() - began < 20
