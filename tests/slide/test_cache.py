"""The cache of decoded tiles: what a finaliser may do to it."""

from __future__ import annotations

import subprocess
import sys


def test_a_finaliser_inside_the_cache_does_not_wait_for_it() -> None:
    """Garbage collection interrupts the thread that is inside the cache, whose lock the finaliser would want."""
    script = """
import gc, weakref
import numpy as np
from wsiseg.slide.cache import TileCache

cache = TileCache(1000)
cache.put(("old", 0), np.zeros(100, dtype=np.uint8))

class Reader:
    pass

def collect():
    cycle = Reader()
    cycle.me = cycle
    weakref.finalize(cycle, cache.discard, "old")
    del cycle
    gc.collect()

class Key(tuple):
    asked = 0
    def __hash__(self):  # while the lock is held
        Key.asked += 1
        if Key.asked == 1:
            collect()
        return 1

cache.put(Key(("new", 0)), np.ones(50, dtype=np.uint8))
assert Key.asked and cache.get(("old", 0)) is None
assert cache.used == 50, cache.used
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=30, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
