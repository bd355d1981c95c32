"""Decoded tiles of this process, bounded in bytes: neighbouring reads meet the same stored tiles at their edges."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


class TileCache:
    """Least recently used arrays up to ``capacity`` bytes; safe to use from several threads."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._tiles: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Pixels | None:
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Hashable, tile: Pixels) -> None:
        with self._lock:
            if key in self._tiles or tile.nbytes > self.capacity:
                return
            self._tiles[key] = tile
            self.used += tile.nbytes
            while self.used > self.capacity:
                self.used -= self._tiles.popitem(last=False)[1].nbytes

    def discard(self, owner: Hashable) -> None:
        """Forget the tiles whose key starts with ``owner``."""
        with self._lock:
            for key in [key for key in self._tiles if isinstance(key, tuple) and key[0] == owner]:
                self.used -= self._tiles.pop(key).nbytes


SHARED = TileCache(64 << 20)
