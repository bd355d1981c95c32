"""Errors that a user can act on.

Each message says what was got, what was expected and what to do. The command line prints it without a
traceback and ends with ``exit_code``; the codes are those of ``docs/cli.md``.
"""

from __future__ import annotations

import os
from typing import ClassVar


class WsisegError(Exception):
    """Base of every error that wsiseg raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(WsisegError):
    """The request itself does not make sense: an option, a configuration, a combination."""

    exit_code = 2


class SlideError(WsisegError):
    """A slide cannot be used: not an image, damaged, not supported, or without a usable mpp."""

    exit_code = 3


class MissingMppError(SlideError):
    """The slide does not say its microns per pixel, or says something absurd."""


class ReadError(SlideError):
    """Pixels of an opened slide cannot be read."""


class DamagedFile(SlideError):
    """What wsiseg itself wrote for a slide is not what it was."""


class ModelError(WsisegError):
    """Weights or a model description that cannot be used."""

    exit_code = 2


class TrainingError(WsisegError):
    """A training cannot go on with its settings: it diverged."""

    exit_code = 2


class EnvironmentFault(WsisegError):
    """Disk, permission, cluster or device: nothing is wrong with the slides."""

    exit_code = 5


class ClusterLost(EnvironmentFault):
    """A cluster that ran went away; what is finished is kept, and the same command goes on from there."""


class WorkerDied(WsisegError):
    """The worker processes that ran a task died, each time it was tried."""

    exit_code = 5


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: on one line, without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in os.fspath(path))
