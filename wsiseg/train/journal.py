"""What a training writes down while it runs: ``log.jsonl``, ``log.csv`` and, where installed, TensorBoard files."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsiseg.core.atomic import write_bytes
from wsiseg.core.environment import environment_faults

Row = dict[str, Any]


class Journal:
    """Rows of numbers by step; each is on disk when :meth:`write` returns.

    Parameters
    ----------
    folder : Path
        Gets ``log.jsonl`` and, with ``tensorboard``, event files in ``tensorboard/``.
    first : int
        The step that a resumed training goes on with: rows from there on are of work that is done again, and go.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self.folder = folder
        self._path = folder / "log.jsonl"
        kept = [row for row in read_log(folder) if row["step"] < first]
        with environment_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self._path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._board = _tensorboard(folder / "tensorboard", first)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row with a ``step`` and numbers, or tables of numbers by name."""
        with environment_faults(self._path), self._path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, value in _flat(row).items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, row["step"])

    def picture(self, name: str, image: Any, step: int) -> None:
        """Add a picture uint8 (h, w, 3) to TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")
            self._board.flush()

    def close(self) -> None:
        """Write ``log.csv``: a line a row, a column a number."""
        if self._board is not None:
            self._board.close()
        rows = [_flat(row) for row in read_log(self.folder)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        with environment_faults(self.folder), (self.folder / "log.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(rows)


def read_log(folder: Path) -> list[Row]:
    """The rows of ``folder``'s log; a last line that a kill cut off is left out."""
    path = folder / "log.jsonl"
    rows: list[Row] = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _flat(row: Mapping[str, Any], prefix: str = "") -> Row:
    flat: Row = {}
    for name, value in row.items():
        flat.update(_flat(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value})
    return flat


def has_tensorboard() -> bool:
    """Whether event files can be written."""
    return importlib.util.find_spec("tensorboard") is not None


def _tensorboard(folder: Path, first: int) -> Any | None:
    """A writer of event files, if there is one; steps from ``first`` on that a killed run wrote are hidden."""
    if not has_tensorboard():
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first)
