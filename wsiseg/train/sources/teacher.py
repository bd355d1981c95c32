"""The networks that sources ask: once a process, on the CPU in full precision, averaged over mirror images.

On the CPU, so that the same pixels get the same labels on every machine, and a pool that was begun on one can be
completed on another.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from wsiseg.errors import ModelError

if TYPE_CHECKING:
    from wsiseg.models.network import NetworkSegmenter


@lru_cache(maxsize=2)
def load_teacher(network: Path) -> NetworkSegmenter:
    """The network of a name or weight file.

    Raises
    ------
    ModelError
        There is none, or it is no network.
    """
    from wsiseg.models.network import NetworkSegmenter
    from wsiseg.models.registry import load_segmenter

    segmenter = load_segmenter(str(network), device="cpu", precision="fp32")
    if not isinstance(segmenter, NetworkSegmenter):
        raise ModelError(f"{network}: is no network; expected one that says where nuclei may be")
    segmenter.flips = True
    return segmenter
