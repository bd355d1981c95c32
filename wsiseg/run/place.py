"""Where a run's results go: a folder, or a URL beside which a folder stands in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from wsiseg.core.environment import absolute
from wsiseg.core.url import is_url
from wsiseg.errors import UsageError, shown
from wsiseg.results.folder import SlideFolder, output_lock
from wsiseg.run.events import Listener, ignore
from wsiseg.run.schedule import Executor


class Place:
    """A results folder of this file system: what is finished in it is where it belongs.

    Attributes
    ----------
    out : Path
        The folder that results are made in; absolute.
    shown : Path
        The same as the user calls it.
    url : str or None
        Where they are written through to.
    """

    url: str | None = None

    def __init__(self, shown: Path) -> None:
        self.shown = shown
        self.out = absolute(shown)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else on this machine, or file system, writes into the folder."""
        with output_lock(self.out):
            yield

    def begin(self, executor: Executor | None = None, tell: Listener = ignore) -> None:
        """Before anything is computed."""

    def require_ours(self, folders: Iterable[SlideFolder]) -> None:
        """Refuse slides' places that are taken by something else; see :meth:`SlideFolder.require_ours`."""
        for folder in folders:
            folder.require_ours()

    def slide_ended(self, name: str) -> None:
        """A slide's folder is what it will be."""

    def gather(self) -> None:
        """Before the tables and pages over all slides are written."""

    def finish(self) -> None:
        """They are written."""


def place_of(given: str | os.PathLike[str]) -> Place:
    """The place that a path or URL names.

    Raises
    ------
    UsageError
        Results cannot be at this URL; or it is a path that was made of one.
    """
    text = os.fspath(given)
    if not is_url(text):
        path = Path(text)
        if path.parts and path.parts[0].endswith(":"):
            raise UsageError(f"{shown(path)}: is the Path of a URL, which has lost a slash. Give the URL as text.")
        return Place(path)
    from wsiseg.run.writethrough import WriteThrough  # only for URLs

    return WriteThrough(text)


@contextlib.contextmanager
def folder_of(given: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder to read the results from that a path or URL names."""
    text = os.fspath(given)
    if not is_url(text):
        yield Path(text)
        return
    from wsiseg.run.writethrough import mirrored

    with mirrored(text) as folder:
        yield folder
