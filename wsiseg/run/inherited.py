"""What workers inherit: the forerunner imports this module, and nobody else does.

All that a fork server does before it forks is to import, so this is done when the module is imported.
"""

from __future__ import annotations

import gc
import importlib

from wsiseg.core.compiled import load_compiled

_MODULES = (
    "torch",
    "distributed.nanny",
    "wsiseg.run.steps",
    "wsiseg.models.network",
    "pandas",  # which Arrow imports for the first array that becomes one of numpy's
    "pyarrow.dataset",
)


def _prepare() -> None:
    """Import, and load what numba has compiled; none of it is ever garbage, or looked at for garbage by a fork."""
    gc.disable()
    try:
        for name in _MODULES:
            importlib.import_module(name)
        load_compiled()
        gc.freeze()
    finally:
        gc.enable()


_prepare()
