"""TLS for clusters whose scheduler listens beyond this machine: whoever reaches one may run anything on it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import dask
import distributed

from wsiseg.errors import EnvironmentFault, UsageError


def encrypted(shared: str, stack: contextlib.ExitStack) -> distributed.Security:
    """Certificates for the length of ``stack``: those of Dask's configuration, else temporary ones.

    Temporary ones are files that only their owner can read, in a folder that all machines see, and are removed in
    the end. They are set in Dask's configuration as well, which workers that are started over SSH inherit: paths,
    no keys.

    Raises
    ------
    UsageError
        ``shared`` is no folder.
    EnvironmentFault
        They cannot be made.
    """
    if dask.config.get("distributed.comm.tls.ca-file", None):
        return distributed.Security(require_encryption=True)
    try:
        made = distributed.Security.temporary()
    except ImportError as error:
        raise EnvironmentFault(
            "this cluster listens beyond this machine and needs certificates for TLS: pip install cryptography, or "
            "name your own in Dask's configuration (distributed.comm.tls), or say tls = false in the profile if "
            "nobody else is on its network."
        ) from error
    folder = Path(shared).expanduser() if shared else Path.home()
    if not folder.is_dir():
        raise UsageError(f"shared = {shared!r}: is no folder. Expected one that all machines of the cluster see.")
    try:
        own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".wsiseg-tls-", dir=folder)))
        certificate = _write(own / "certificate.pem", made.tls_ca_file)
        key = _write(own / "key.pem", made.tls_worker_key)
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write certificates into {folder}: {error}. Name a folder that all machines see as `shared` in "
            "the profile."
        ) from error
    roles = ("client", "scheduler", "worker")
    files = {"cert": certificate, "key": key}
    settings = {f"distributed.comm.tls.{role}.{what}": path for role in roles for what, path in files.items()}
    stack.enter_context(
        dask.config.set(
            {
                **settings,
                "distributed.comm.tls.ca-file": certificate,
                "distributed.comm.require-encryption": True,
            }
        )
    )
    return distributed.Security(require_encryption=True)


def _write(path: Path, text: str) -> str:
    """A file for its owner's eyes."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    return str(path)
