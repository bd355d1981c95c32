"""``report.html`` in a slide's folder: its maps, its worst and typical patches, and its whole record in words.

The pictures are links to ``pictures/`` beside the page: of a thousand slides no second copy is made of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wsiseg.core.atomic import write_bytes
from wsiseg.report.actions import Action, find_actions
from wsiseg.report.distributions import distribute
from wsiseg.report.exhibits import Exhibits, gather_exhibits
from wsiseg.report.page import BESIDE, head, is_folder_name, template
from wsiseg.report.rows import make_row
from wsiseg.results.folder import SLIDE_PAGE
from wsiseg.results.record import SegmentedRecord, SlideRecord


def write_slide_pages(out: Path, records: Sequence[SlideRecord]) -> None:
    """Write the page of each segmented slide whose folder is in ``out`` and may be written, each atomically.

    Raises
    ------
    EnvironmentFault
        The disk refuses.
    """
    actions = find_actions(records, distribute(records))
    by_slide: dict[str, list[Action]] = {}
    for action in actions:
        by_slide.setdefault(action.id, []).append(action)

    # An id that is a path would write into another folder.
    ours = [record for record in records if isinstance(record, SegmentedRecord) and is_folder_name(record.id)]
    folders = {record.id: out / record.id for record in ours}
    # A folder of somebody else's is left as it is: the cohort's page must not fail for it.
    shown = [one for one in ours if folders[one.id].is_dir() and os.access(folders[one.id], os.W_OK)]

    def write(record: SegmentedRecord) -> None:
        folder = folders[record.id]
        page = render_slide(record, gather_exhibits(folder, record, embed=False), by_slide.get(record.id, ()))
        content = page.encode("utf-8", "replace")
        if _content(folder / SLIDE_PAGE) != content:
            write_bytes(folder / SLIDE_PAGE, content)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # most of it waits for the disk
        list(pool.map(write, shown))


def render_slide(record: SegmentedRecord, exhibits: Exhibits, actions: Sequence[Action] = ()) -> str:
    """The page as text."""
    return template("slide.html.jinja").render(
        **head(images=BESIDE), row=make_row(record, None, actions), exhibits=exhibits
    )


def _content(path: Path) -> bytes | None:
    """What is there already: a page that has not changed costs no writing."""
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None
