"""Names of files that belong together, and of those that a message lists."""

from __future__ import annotations

from collections.abc import Iterable

IMAGE_SUFFIXES = (".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".npy")
_LISTED = 5


def stem(name: str) -> str:
    """A file's name without the suffix of an image; a dot elsewhere in it stays."""
    lower = name.lower()
    return next((name[: -len(s)] for s in (*IMAGE_SUFFIXES, ".mat") if lower.endswith(s)), name)


def listed(names: Iterable[str]) -> str:
    """The first few of ``names``, and how many more there are."""
    known = list(names)
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return ", ".join(known[:_LISTED]) + more if known else "nothing"
