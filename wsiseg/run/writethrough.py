"""Results at a URL: made in a folder of this machine, and each slide's written through as soon as it is finished.

The folder is a mirror of the URL that lacks what is large: before a run it gets the records of what is finished
there, so that the run finds it finished, and what the pages over all slides are made from. A slide's own result is
copied beside the run by a thread, one slide at a time; the run waits where more than a few slides are due, so that
the disk need not hold the cohort. What was not copied when a run was stopped is copied by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from wsiseg.core.atomic import remove_leftovers, replacing_folder, temporary_name, write_bytes
from wsiseg.core.environment import environment_faults
from wsiseg.core.sealed import is_intact
from wsiseg.core.url import folder_url
from wsiseg.errors import UsageError, WsisegError
from wsiseg.report.actions import FILE as ACTIONS
from wsiseg.results.folder import SLIDE_PAGE, SlideFolder
from wsiseg.results.record import RECORD_NAME, FailedRecord, SlideRecord, read_record
from wsiseg.results.remote import FOR_REPORTS, WORK_VARIABLE, Files, RemoteResults, damage, work_folder
from wsiseg.results.uploaded import Uploaded, checksum, drop_large, read_uploaded, write_uploaded
from wsiseg.run.events import Listener, Note, ignore
from wsiseg.run.place import Place
from wsiseg.run.schedule import Executor

_DUE = 2
"""Finished slides that may wait to be copied, or be on their way, before the run waits for them."""
_READERS = 8
_TABLES = ("cohort.csv", "cohort.parquet", ACTIONS, "report.html")
"""Over all slides; the page last, which links to the rest."""


class _Stopped(BaseException):
    """Nobody waits for the upload any more."""


class WriteThrough(Place):
    """Results at ``url``, made in a folder here."""

    def __init__(self, url: str) -> None:
        self.url: str = folder_url(url)
        self._remote = RemoteResults(self.url)
        super().__init__(work_folder(self.url))
        self._thread = ThreadPoolExecutor(1, "upload")
        self._due: deque[Future[None]] = deque()
        self._stopping = threading.Event()
        self._taken: dict[str, Files] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """As of a folder. The URL itself cannot be held: see docs/remote.md on two machines."""
        try:
            with super().held():
                try:
                    yield
                finally:
                    self._stopping.set()
                    self._thread.shutdown(cancel_futures=True)
        except WsisegError as error:
            if str(self.out) not in str(error):
                raise
            raise type(error)(f"{error}\n{self.out} is where results for {self.url} are made.") from error

    def begin(self, executor: Executor | None = None, tell: Listener = ignore) -> None:
        """See that the URL may be written, and find what is finished there; ``executor``: who makes more.

        Raises
        ------
        UsageError
            The protocol cannot write, or workers do not see the folder that results are made in.
        EnvironmentFault
            The URL cannot be read or written.
        """
        self._remote.require_writable()
        if executor is not None:
            self._require_shared(executor)
        self.mirror(tell)

    def require_ours(self, folders: Iterable[SlideFolder]) -> None:
        """Refuse, at the URL as well, what is taken by something else."""
        folders = list(folders)
        super().require_ours(folders)
        for folder in folders:
            self._remote.require_ours(folder.id, self._taken.get(folder.id, {}))

    def slide_ended(self, name: str) -> None:
        """Copy the slide's folder, beside whatever else is done.

        Raises
        ------
        EnvironmentFault
            An earlier slide could not be copied.
        """
        self._due.append(self._thread.submit(self._upload, name))
        while self._due and (len(self._due) > _DUE or self._due[0].done()):
            self._due.popleft().result()

    def gather(self) -> None:
        """Wait until all slides are at the URL, and fetch what others have brought there."""
        for folder in self.folders():
            self.slide_ended(folder.name)
        while self._due:
            self._due.popleft().result()
        self.mirror()

    def finish(self) -> None:
        """Copy the slides' pages that have changed, and the tables and the page over all slides."""
        changed: dict[Path, Uploaded] = {}
        for folder in self.folders():
            noted, page = read_uploaded(folder), checksum(_content(folder / SLIDE_PAGE))
            if noted is not None and page and noted.page != page:
                changed[folder] = noted.with_page(page)
        self._remote.put({f"{folder.name}/{SLIDE_PAGE}": folder / SLIDE_PAGE for folder in changed})
        for folder, noted in changed.items():
            write_uploaded(folder, noted)
        self._remote.put({name: self.out / name for name in _TABLES})

    def mirror(self, tell: Listener = ignore) -> None:
        """Make the folder here what is finished at the URL, apart from what has not been copied yet."""
        there = self._remote.names()
        with ThreadPoolExecutor(_READERS if self._remote.parallel else 1, "mirror") as readers:
            for name, note in zip(there, readers.map(self._mirror, there), strict=True):
                if note:
                    tell(Note(name, note))
        for folder in self.folders():
            if folder.name not in there and read_uploaded(folder) is not None:
                _drop(folder)

    def _mirror(self, name: str) -> str:
        """Mirror one slide; what there is to say."""
        files, content, folder = self._remote.files(name), self._remote.content(name), self.out / name
        record = self._remote.record(name, content)
        noted = read_uploaded(folder)
        lacking = "" if record is None or isinstance(record, FailedRecord) else damage(files, record.files)
        if record is None or content is None or lacking:
            self._taken[name] = files
            if noted is not None:
                _drop(folder)
            return f"its result at {self.url} is not whole, {lacking}: it does not count" if lacking else ""
        if noted is None and _content(folder / RECORD_NAME) == content:
            write_uploaded(folder, self._note(name, content))  # stopped just before that
        elif not _stands(folder, noted, record):
            self._fetch(name, files, content)
        return ""

    def _fetch(self, name: str, files: Files, content: bytes) -> None:
        """Make the slide's folder here anew of what is at the URL, but for what is large."""
        with replacing_folder(self.out / name) as made:
            self._remote.fetch_for_reports(name, files, made)
            write_bytes(made / RECORD_NAME, content)
            page = checksum(_content(made / SLIDE_PAGE))
            write_uploaded(made, self._note(name, content).with_page(page))

    def _upload(self, name: str) -> None:
        """Bring a slide's folder to the URL, as far as it is not there."""
        folder = self.out / name
        content, noted = _content(folder / RECORD_NAME), read_uploaded(folder)
        if content is None:
            return
        note = self._note(name, content)
        if noted is None:
            if isinstance(read_record(folder), FailedRecord) and self._succeeded(name):
                return  # elsewhere, meanwhile
            self._remote.upload(name, folder, content, self._proceed)
            write_uploaded(folder, note)
        elif noted.record != note.record:  # the slide has another path now, or another error
            self._remote.write(f"{name}/{RECORD_NAME}", content)
            write_uploaded(folder, note.with_page(noted.page))
        drop_large(folder)

    def _succeeded(self, name: str) -> bool:
        """Whether a result of the slide is at the URL."""
        record = self._remote.record(name, self._remote.content(name))
        return record is not None and not isinstance(record, FailedRecord)

    def _proceed(self) -> None:
        if self._stopping.is_set():
            raise _Stopped

    def _note(self, name: str, content: bytes) -> Uploaded:
        return Uploaded(f"{self.url}/{name}", checksum(content))

    def folders(self) -> list[Path]:
        """The slides' folders here."""
        return [path.parent for path in sorted(self.out.glob(f"[!.]*/{RECORD_NAME}"))]

    def _require_shared(self, executor: Executor) -> None:
        """Refuse workers on machines that do not see the folder here; those of one machine do."""
        if executor.cores > 1:
            return
        seen = executor.map_bounded(os.path.isdir, [str(self.out)] * max(1, executor.slots), "see-folder")
        if not all(seen):
            raise UsageError(
                f"{self.out}: is not seen by all workers, and results for {self.url} are made there. Expected: a "
                f"folder that all machines share. Name one by {WORK_VARIABLE}."
            )


@contextlib.contextmanager
def mirrored(url: str) -> Iterator[Path]:
    """A folder of what is finished at a URL, to read from; what is large is fetched when it is asked for."""
    place = WriteThrough(url)
    with place.held():
        place.mirror()
        try:
            yield place.out
        finally:
            for folder in place.folders():
                if read_uploaded(folder) is not None:
                    drop_large(folder)


def _stands(folder: Path, noted: Uploaded | None, there: SlideRecord) -> bool:
    """Whether what is here of a slide remains, beside this record at the URL.

    What is here alone does if it is the newer one, unless the slide failed here and not there; what is there as
    well does if it is of that result.
    """
    here = read_record(folder)
    if here is None:
        return False
    if noted is None:
        worse = isinstance(here, FailedRecord) and not isinstance(there, FailedRecord)
        return here.created >= there.created and not worse
    files = {} if isinstance(there, FailedRecord) else there.files
    small = (name for name in FOR_REPORTS if name in files)
    same = (here.key, here.created) == (there.key, there.created)
    return same and all(is_intact(folder / name, files[name]) for name in small)


def _drop(folder: Path) -> None:
    """Remove a slide's folder here, all at once: what were left of it would be somebody else's."""
    with environment_faults(folder):
        remove_leftovers(folder)
        retired = temporary_name(folder)
        os.rename(folder, retired)
        shutil.rmtree(retired, ignore_errors=True)


def _content(path: Path) -> bytes | None:
    """A file's content; None where there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return None
