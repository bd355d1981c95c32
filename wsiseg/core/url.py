"""What is a URL and what a path: known without the libraries that read either."""

from __future__ import annotations

import re

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether ``text`` names a protocol; a drive's letter is none."""
    return _URL.match(text) is not None
