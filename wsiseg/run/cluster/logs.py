"""What Dask logs is not shown: the caller is told of it as an error or a slide's record."""

from __future__ import annotations

import logging


def silence_libraries() -> None:
    """What Dask logs about lost workers and connections, the caller is told as an error or a slide's record."""
    for name in ("distributed", "tornado", "bokeh", "asyncio", *logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado", "bokeh", "asyncio"):
            logging.getLogger(name).setLevel(log_level())


def log_level() -> int:
    return logging.WARNING if logging.getLogger("wsiseg").isEnabledFor(logging.DEBUG) else logging.CRITICAL
