"""Decoded tiles of this process, bounded in bytes: neighbouring reads meet the same stored tiles at their edges."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


class TileCache:
    """Least recently used arrays up to ``capacity`` bytes; safe to use from several threads and from finalisers."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._tiles: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._lock = threading.Lock()
        self._gone: deque[Hashable] = deque()

    def get(self, key: Hashable) -> Pixels | None:
        with self._lock:
            self._forget_gone()
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Hashable, tile: Pixels) -> None:
        with self._lock:
            self._forget_gone()
            if key in self._tiles or tile.nbytes > self.capacity:
                return
            self._tiles[key] = tile
            self.used += tile.nbytes
            while self.used > self.capacity:
                self.used -= self._tiles.popitem(last=False)[1].nbytes

    def discard(self, owner: Hashable) -> None:
        """Forget the tiles whose key starts with ``owner``: now, or at the next use where the cache is in use.

        Never waits: a reader's finaliser calls it, and the garbage collection that runs the finaliser can interrupt
        the very thread that is inside ``get`` or ``put``.
        """
        self._gone.append(owner)
        if self._lock.acquire(blocking=False):
            try:
                self._forget_gone()
            finally:
                self._lock.release()

    def _forget_gone(self) -> None:
        while self._gone:
            owner = self._gone.popleft()
            for key in [key for key in self._tiles if isinstance(key, tuple) and key[0] == owner]:
                self.used -= self._tiles.pop(key).nbytes


SHARED = TileCache(64 << 20)
