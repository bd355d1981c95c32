"""The file system at a URL: any protocol of fsspec (s3, https, gs, az, …) that is installed.

Credentials and endpoints are those of its configuration (https://filesystem-spec.readthedocs.io, "Configuration").
"""

from __future__ import annotations

from typing import Any, TypeGuard

from wsiseg.errors import UsageError, shown


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the URL's name in it.

    Raises
    ------
    UsageError
        There is no such protocol, or its package is not installed.
    """
    import fsspec

    protocol = url.partition("://")[0].lower()
    options = {"auto_mkdir": True} if protocol in ("file", "local") else {}  # the others make folders as needed
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise UsageError(
            f"{shown(url)}: {protocol}:// needs a package that is not here ({error}).\n"
            "Install it: pip install 'wsiseg[remote]' has http, https and s3."
        ) from error
    except ValueError as error:
        raise UsageError(f"{shown(url)}: {error}. Expected a protocol of fsspec, such as https or s3.") from error
    return found


def is_disks(error: BaseException) -> TypeGuard[OSError]:
    """Whether an error is this machine's disk's rather than of the other end: that one's have no file name."""
    return isinstance(error, OSError) and error.errno is not None and error.filename is not None
