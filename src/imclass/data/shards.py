"""Arrays of images, one after another, that are read like one; and where a packed set is cut into them."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from imclass.data.encoded import EncodedShards

# On average, whichever is more: few enough to push for one image, enough that DVC has few files.
SHARD_BYTES = 2**20  # of pixels, or of files
SHARD_IMAGES = 64


class Shards:
    """Arrays uint8 N C H W as one along N. Any index of its first axis gives a copy."""

    def __init__(self, arrays: Sequence[UInt8[np.ndarray, "_ c h w"]]) -> None:
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays])
        self._rows = np.arange(self._ends[-1])
        self.dtype = np.dtype(np.uint8)
        self.shape = (len(self._rows), *arrays[0].shape[1:])
        self.nbytes = math.prod(self.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> UInt8[np.ndarray, "..."]:
        rows = self._rows[key]
        flat = rows.ravel()
        order = np.argsort(flat)
        sorted_rows = flat[order]
        images = np.empty((len(flat), *self.shape[1:]), np.uint8)
        start = 0
        for array, end, last in zip(self._arrays, np.searchsorted(sorted_rows, self._ends), self._ends, strict=True):
            if end > start:
                images[order[start:end]] = array.take(sorted_rows[start:end] - (last - len(array)), axis=0)
                start = end
        return images.reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


Images = UInt8[np.ndarray | Shards | EncodedShards, "n c h w"]


def cut_shards(names: Sequence[str], *, image_bytes: int) -> Iterator[slice]:
    """Where the shards of a split are, of images in this order.

    A shard begins at each image whose hashed name is the lowest of those around it, half a shard to each side. So
    none is shorter than that, long ones are rare, and an image more or less changes the shards beside it at most.
    """
    import pandas as pd  # which those who read shards need not load

    reach = max(SHARD_BYTES // image_bytes, SHARD_IMAGES) // 2
    hashes = pd.Series([_hash(name) for name in names])
    lowest = hashes.rolling(2 * reach + 1, center=True).min()
    starts = sorted({0, *np.flatnonzero(lowest == hashes).tolist()})
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        yield slice(start, end)


def _hash(name: str) -> float:
    return float(int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]))
