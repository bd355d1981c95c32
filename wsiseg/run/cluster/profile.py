"""Profiles: what ``wsiseg.toml`` says of a cluster that ``--cluster`` names."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dask.utils import parse_timedelta

from wsiseg.core.typed import Misfit, as_typed
from wsiseg.errors import UsageError

_LONGEST = 1_000_000  # bytes


@dataclass(frozen=True)
class Profile:
    """How a cluster is started, and how it may grow and shrink.

    Attributes
    ----------
    minimum, maximum : int
        Jobs of a batch system, or pods, that are kept at least and asked for at most.
    tls : bool
        Whether all connections are encrypted, and only who has the certificate is let in. False only on a network
        that nobody else is on.
    shared : str
        A folder that all machines see, for temporary certificates; "" is the home folder.
    margin : str
        How long before its job's walltime a worker stops taking tasks; "" is a tenth of the walltime, 10 minutes
        at most.
    patience : str
        For how long the cluster may be without workers, at the start or later, before the run gives up.
    options : mapping
        What the library that starts the cluster is told, by the names that its documentation has.
    """

    minimum: int = 1
    maximum: int = 10
    tls: bool = True
    shared: str = ""
    margin: str = ""
    patience: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def read_profile(cluster: str, file: Path | None) -> Profile:
    """The table ``[cluster.NAME]`` of a file, or what holds without one.

    Parameters
    ----------
    cluster : str
        As ``--cluster`` names it.
    file : Path or None
        Where it is. None: ``wsiseg.toml`` in the current folder, else ``~/.config/wsiseg/wsiseg.toml``, else none.

    Raises
    ------
    UsageError
        The file cannot be read, or says what no profile can.
    """
    given = file or next((path for path in _usual_places() if path.is_file()), None)
    if given is None:
        return Profile()
    table = _table(given, cluster)
    if table is None:
        if file is None:
            return Profile()
        raise UsageError(f"{given}: has no table [cluster.{cluster}]. See docs/cluster.md for one to copy.")
    where = f"{given}, [cluster.{cluster}]"
    names = {one.name for one in fields(Profile)}
    unknown = sorted(set(table) - names)
    if unknown:
        raise UsageError(
            f"{where}: has no setting {', '.join(unknown)}. Expected {', '.join(sorted(names))}; what the library "
            f"that starts the cluster is told belongs below [cluster.{cluster}.options]."
        )
    try:
        profile = as_typed(table, Profile)
    except Misfit as error:
        raise UsageError(f"{where}: {error}") from error
    if not 0 < profile.minimum <= profile.maximum:
        raise UsageError(
            f"{where}: minimum {profile.minimum}, maximum {profile.maximum}; expected 1 ≤ minimum ≤ maximum."
        )
    for name in ("margin", "patience"):
        seconds(getattr(profile, name), f"{where}: {name}")
    return profile


def seconds(text: str, where: str) -> float:
    """A time such as "10 minutes"; "" is 0.

    Raises
    ------
    UsageError
        It is none.
    """
    try:
        value = parse_timedelta(text) if text else 0.0
    except (ValueError, KeyError):
        value = -1.0
    if value < 0:
        raise UsageError(f'{where}: got {text!r}; expected a time such as "10 minutes" or "2h".')
    return float(value)


_DAYS = re.compile(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})(?:\.\d+)?")


def walltime_s(text: str, cluster: str) -> float | None:
    """A walltime as the batch systems write it, in seconds; None where it is not understood.

    Two numbers are minutes and seconds, but hours and minutes for LSF and after days; one is seconds for PBS and
    SGE, minutes for SLURM and LSF, and hours after days.
    """
    match = _DAYS.fullmatch(text.strip())
    if match is None:
        return None
    numbers = [int(number) for number in match["clock"].split(":")]
    days = match["days"]
    if days is not None or len(numbers) == 3:
        units = [3600, 60, 1]
    elif len(numbers) == 2:
        units = [3600, 60] if cluster == "lsf" else [60, 1]
    else:
        units = [60] if cluster in ("slurm", "lsf") else [1]
    return float(int(days or 0) * 86400 + sum(n * unit for n, unit in zip(numbers, units, strict=False)))


def _usual_places() -> list[Path]:
    return [Path("wsiseg.toml"), Path.home() / ".config" / "wsiseg" / "wsiseg.toml"]


def _table(path: Path, cluster: str) -> dict[str, Any] | None:
    """A cluster's table in a file; None where it has none."""
    try:
        with path.open("rb") as stream:
            tables = tomllib.loads(stream.read(_LONGEST).decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as TOML: {error}. See docs/cluster.md.") from error
    clusters = tables.get("cluster", {})
    table = clusters.get(cluster) if isinstance(clusters, dict) else None
    if table is not None and not isinstance(table, dict):
        raise UsageError(f"{path}: cluster.{cluster} is {table!r}; expected a table [cluster.{cluster}].")
    return table
