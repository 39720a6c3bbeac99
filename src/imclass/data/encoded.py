"""Files of pictures, one after another in shards, that are read like an array of their pixels.

train-0000.bin   the bytes of each file
train-0000.npy   int64 N 2: where each ends, and its CRC-32, which is checked whenever it is read

The pixels are those that build saw, since the same functions decode them, and so those of a raw set.
"""

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int64, UInt8

from imclass.data.ahead import make_ahead
from imclass.errors import InputError
from imclass.files import name_in_errors

WORTH_WORKERS = 4 * 2**20  # bytes of files; they take about 0.2 s, starting workers a tenth of that

Pixels = UInt8[np.ndarray, "..."]
Places = Int64[np.ndarray, "n 4"]  # of each file: number of its shard, where it starts and ends there, its CRC-32


class EncodedShards:
    """Files in shards as pixels uint8 N C H W of the shape of `fit`. Any index of the first axis decodes anew.

    `workers` is how many processes decode ahead where much is to be read in order, 0: one for each core.
    """

    def __init__(self, paths: Sequence[Path], places: Places, fit: dict[str, Any], *, workers: int = 0) -> None:
        self.workers = workers
        self.dtype = np.dtype(np.uint8)
        self.shape = (len(places), fit["channels"], fit["height"], fit["width"])
        self.nbytes = int(np.prod(self.shape, dtype=np.int64))
        self._fit = SimpleNamespace(**fit)
        self._paths = paths
        self._places = places
        self._rows = np.arange(len(places))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Pixels:
        from imclass.data.images import decode_and_fit  # which those who read raw sets need not load

        rows = self._rows[key]
        flat = rows.ravel()
        images = np.empty((len(flat), *self.shape[1:]), np.uint8)
        for at, where, content in self._read(flat):
            images[at] = decode_and_fit(where, content, self._fit)
        return images.reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def cut(self, rows: Int64[np.ndarray, " n"], parts: Float[np.ndarray, "n 4"]) -> UInt8[np.ndarray, "n c h w"]:
        """A part of each image, at the size of the whole: left, top, right and bottom, 0..1, as `fit_part` takes it."""
        from imclass.data.images import decode_image, fit_part

        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for at, where, content in self._read(rows):
            pixels = decode_image(where, content, background=self._fit.background)
            images[at] = fit_part(pixels, self._fit, parts[at].tolist())
        return images

    def make_ahead(self, make: Callable[[Any], Any], tasks: Sequence[Any], *, most: int) -> Iterator[Pixels]:
        """What `make` makes of each task by reading at most `most` images, in order; by worker processes if it pays."""
        file_bytes = (self._places[:, 2] - self._places[:, 1]).mean()
        if most * len(tasks) * file_bytes < WORTH_WORKERS or sys.platform != "linux":  # elsewhere forking is not safe
            return (np.asarray(make(task)) for task in tasks)
        import imclass.data.images  # noqa: F401, once and not by each worker

        return make_ahead(make, tasks, (most, *self.shape[1:]), workers=self.workers)

    def read_file(self, row: int) -> bytes:
        """The bytes of one file."""
        ((_, _, content),) = self._read(np.array([row]))
        return content

    def _read(self, rows: Int64[np.ndarray, " n"]) -> Iterator[tuple[int, str, bytes]]:
        """Position among the rows, name for errors, and content of each file."""
        # Opened for the moment of reading: maps would need an open file for each shard, of which there may be too many.
        order = np.argsort(rows, kind="stable").tolist()
        for shard, group in groupby(order, lambda at: int(self._places[rows[at], 0])):
            path = self._paths[shard]
            with name_in_errors(path), path.open("rb", buffering=0) as file:
                for at in group:
                    _, start, end, check = self._places[rows[at]].tolist()
                    file.seek(start)
                    content = file.read(end - start)
                    if zlib.crc32(content) != check:
                        raise InputError(f"{path}: damaged since build wrote it, at byte {start:,}")
                    yield at, f"{path}, byte {start:,}", content


def read_in_order(images: Any, starts: range) -> Iterator[UInt8[np.ndarray, "n c h w"]]:
    """The images of a range, as many at once as its step; encoded ones are decoded ahead."""

    def read(start: int) -> UInt8[np.ndarray, "n c h w"]:
        return images[start : min(start + starts.step, starts.stop)]

    return images.make_ahead(read, starts, most=starts.step) if isinstance(images, EncodedShards) else map(read, starts)


class EncodedDraft:
    """Files in the order in which they come, in one temporary file; `images` follow the rows of the set."""

    def __init__(self, path: Path, num_rows: int, fit: dict[str, Any]) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        places = np.zeros((num_rows, 4), np.int64)
        self._places = places
        self.images = EncodedShards([path], places, fit)

    def add(self, rows: Sequence[int], pixels: Pixels, contents: Sequence[bytes]) -> None:  # noqa: ARG002
        for row, content in zip(rows, contents, strict=True):
            start = self._file.tell()
            self._file.write(content)
            self._places[row] = 0, start, start + len(content), zlib.crc32(content)

    def close(self) -> None:
        """To be called before images are read."""
        self._file.close()

    def estimate_bytes(self, rows: Sequence[int]) -> int:
        """Of an image, as a power of two, so that one image more or less rarely moves the ends of shards."""
        lengths = (self._places[rows, 2] - self._places[rows, 1]).mean()
        return int(2 ** np.round(np.log2(lengths)))

    def write_shard(self, path: Path, rows: Sequence[int]) -> None:
        ends = np.cumsum(self._places[rows, 2] - self._places[rows, 1])
        index = np.column_stack([ends, self._places[rows, 3]])
        with path.with_suffix(".bin").open("wb") as file:
            for row in rows:
                file.write(self.images.read_file(row))
        with path.with_suffix(".npy").open("wb") as file:  # as in `packed`: numpy tells no reason
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(index))
            file.write(index.tobytes())


def open_encoded(shards: Sequence[Path], fit: dict[str, Any], *, workers: int) -> EncodedShards:
    """The files in shards, by their paths without suffix. Raises InputError where a .bin has not its length."""
    parts = []
    for number, shard in enumerate(shards):
        index = np.load(shard.with_suffix(".npy"))
        path = shard.with_suffix(".bin")
        if path.stat().st_size != index[-1, 0]:
            raise InputError(f"{path.parent}: damaged since build wrote it:\n  {path.name}")
        starts = np.concatenate([[0], index[:-1, 0]])
        parts.append(np.column_stack([np.full(len(index), number), starts, index]))
    return EncodedShards([shard.with_suffix(".bin") for shard in shards], np.concatenate(parts), fit, workers=workers)
