"""A file of nuclei that is written at once: what tests begin with, and what one that grew is compared with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from wsiseg.core.atomic import replacing, sync_folder
from wsiseg.core.environment import environment_faults
from wsiseg.core.nuclei import Nuclei
from wsiseg.results.nuclei import ATTRIBUTES
from wsiseg.results.nucleiwriter import NucleiFormat, RowGroups, Written


class NucleiWriter:
    """Writes ``nuclei.parquet`` at once; the file has its final name only if all went well.

    Use it as a context manager. Memory is that of one row group. An exception inside the ``with`` block removes
    what was written and leaves an older file of that name untouched.

    Parameters
    ----------
    path : path
        The final name. The temporary file lies in the same folder.
    metadata, attributes, types
        As of :class:`wsiseg.results.nucleiwriter.NucleiFormat`.

    Raises
    ------
    EnvironmentFault
        The disk is full, read-only or not permitted.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Mapping[str, Any],
        attributes: Mapping[str, str] = ATTRIBUTES,
        types: Sequence[str] = (),
    ) -> None:
        self.path = Path(path)
        self._declared = NucleiFormat(metadata, attributes, types)
        self._file = contextlib.ExitStack()
        self._rows: RowGroups | None = None

    def __enter__(self) -> NucleiWriter:
        with environment_faults(self.path), contextlib.ExitStack() as file:
            self._rows = RowGroups(self._declared, file.enter_context(replacing(self.path)), Written())
            self._file = file.pop_all()
        return self

    def write(self, nuclei: Nuclei) -> None:
        """As :meth:`wsiseg.results.nucleiwriter.RowGroups.write`."""
        if self._rows is None:
            raise ValueError("write to an open NucleiWriter: use it in a with statement")
        with environment_faults(self.path):
            self._rows.write(nuclei)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        rows, self._rows = self._rows, None
        assert rows is not None
        if kind is not None:
            with contextlib.suppress(OSError):  # a disk that also refuses to close is not the cause
                rows.close()
            self._file.__exit__(kind, error, trace)
            return
        with self._file, environment_faults(self.path):
            rows.close(self._declared.key_values(rows.written))
        sync_folder(self.path.parent)
