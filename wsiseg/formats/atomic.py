"""Files that appear under their names only when they are complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from wsiseg.store import environment_faults, lock_beside, remove_leftovers, temporary_name


@contextlib.contextmanager
def atomic_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary names to write to; all get their final names when the block ends without an error.

    Parameters
    ----------
    paths : sequence of Path
        Final names; folders that are missing are made.

    Raises
    ------
    EnvironmentFault
        The disk refuses: full, read-only, no permission; or another process is writing the first of them.
    """
    temporaries = [temporary_name(path) for path in paths]
    with lock_beside(paths[0]), environment_faults(paths[0]):
        for path in paths:
            remove_leftovers(path)
        try:
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
            yield temporaries
            for temporary, path in zip(temporaries, paths, strict=True):
                _sync(temporary)
                os.replace(temporary, path)
        finally:
            for temporary in temporaries:
                temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
