"""How much memory a process has held."""

from __future__ import annotations

import resource
import sys


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes, of libraries that others share as well."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
