"""What is a URL and what a path: known without the libraries that read either."""

from __future__ import annotations

import re

from wsiseg.errors import UsageError, shown

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Whether ``text`` names a protocol; a drive's letter is none."""
    return _URL.match(text) is not None


def url_parts(url: str) -> tuple[str, list[str]]:
    """The protocol of a URL, and the parts between its slashes.

    Raises
    ------
    UsageError
        It holds what must not stand in results and messages, or leads elsewhere than it seems.
    """
    protocol, _, rest = url.partition("://")
    parts = [part for part in rest.split("/") if part]
    if any(part in (".", "..") for part in parts):
        raise UsageError(f"{shown(url)}: has the part . or .., expected a URL without")
    if ":" in (parts or [""])[0].rpartition("@")[0]:
        host = parts[0].rpartition("@")[2]
        raise UsageError(
            f"{protocol}://…@{shown(host)}: has a password. Expected a plain URL; give credentials through "
            "fsspec's configuration or the protocol's own variables."
        )
    if "?" in rest:
        raise UsageError(
            f"{shown(url.partition('?')[0])}: has a query (?…), which may be a signature that ends. Expected a "
            "plain URL; give credentials through fsspec's configuration or the protocol's own variables."
        )
    return protocol.lower(), parts


def folder_url(given: str) -> str:
    """The URL of a folder to write to, in the one form that it has.

    Raises
    ------
    UsageError
        It is none: no place, a pattern, a query, a password, or a protocol that only reads.
    """
    protocol, parts = url_parts(given)
    if protocol in ("http", "https"):
        raise UsageError(
            f"{shown(given)}: {protocol}:// can be read, not written. Expected a folder, or a URL of a protocol "
            "that can write: s3, gs, az …"
        )
    if not parts or any(c in given for c in "*[]"):
        raise UsageError(f"{shown(given)}: expected the URL of one folder, PROTOCOL://PLACE/…/NAME")
    root = "/" if protocol in ("file", "local") else ""
    return f"{protocol}://{root}{'/'.join(parts)}"
