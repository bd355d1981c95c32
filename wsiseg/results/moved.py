"""Which results are those of a slide that has been moved or renamed since."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from wsiseg.core.url import is_url
from wsiseg.results.describe import slide_bytes
from wsiseg.results.folder import SlideFolder, read_records
from wsiseg.results.record import FailedRecord
from wsiseg.slide.remote import local


class Moved:
    """Results of slides that were moved, or renamed, since they were segmented.

    A slide whose content is that of a result whose own slide is gone is the same slide. Content is compared by the
    task that opens it, and only with results that its size, or else its name, does not rule out.
    """

    def __init__(self, folders: Mapping[Path, SlideFolder], out: Path) -> None:
        self._taken: set[str] = set()
        self._homes: dict[Path, SlideFolder] = {}
        self._gone: list[tuple[SlideFolder, str, int | None]] = []
        known = {folder.id for folder in folders.values() if folder.final.exists()}
        if len(known) == len(folders):
            return
        for record in read_records(out):
            if isinstance(record, FailedRecord) or record.id in known:
                continue
            folder, slide = SlideFolder(out, record.id), record.slide
            path = local(slide.path)
            if path in folders:
                self._homes[path] = folder
            elif not is_url(slide.path) and not os.path.lexists(path):
                self._gone.append((folder, slide.name, slide.bytes))

    def home(self, path: Path, folder: SlideFolder) -> SlideFolder:
        """Where the slide's results are that it brought along from an earlier name."""
        return folder if folder.final.exists() else self._homes.get(path, folder)

    def candidates(self, path: Path, folder: SlideFolder) -> tuple[SlideFolder, ...]:
        """Results that may be those of a slide which has none under its own name."""
        if not self._gone or folder.final.exists():
            return ()
        size = slide_bytes(path)
        return tuple(
            other
            for other, name, held in self._gone
            if other.id not in self._taken and (name == path.name if None in (size, held) else size == held)
        )

    def take(self, folder: SlideFolder) -> bool:
        """Give a slide the results that it was found to have; False if another one has them already."""
        if folder.id in self._taken:
            return False
        self._taken.add(folder.id)
        return True
