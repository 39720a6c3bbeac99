"""Decoded images <-> the packed set: a folder of shards that training maps into memory.

train-0000.npy   uint8 N C H W: images of a split, whose shards one after another are sorted by name; where the files
                 themselves are kept, they are in train-0000.bin and their places here (data.encoded)
train-0000.csv   image,label of each of them
meta.json        classes, images in each shard, fit of the pixels, their mean and standard deviation in train

A new image rewrites the shard it lies in and no other, or one beside it; a new label rewrites no pixels.
"""

import csv
import hashlib
import json
import math
import resource
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64, UInt8

from imclass.data.encoded import EncodedDraft, open_encoded
from imclass.data.shards import Images, Shards, cut_shards
from imclass.data.workers import choose_workers
from imclass.errors import InputError, list_problems
from imclass.files import hash_file, write_whole
from imclass.ranks import ALONE, Ranks

SPARE_FILES = 256  # that a process may have open beside the shards

Row = tuple[str, str, str]  # image, label and split
Pixels = UInt8[np.ndarray, "_ c h w"]
Decoded = tuple[list[str], Pixels] | tuple[list[str], Pixels, list[bytes]]  # names, pixels, and files where encoded


@dataclass(frozen=True)
class Split:
    """Images (N C H W), mapped and not read, and labels of one split."""

    images: Images
    labels: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Packed:
    """An opened packed set. `mean` and `std` are per channel, of pixels in 0..1, over the training split.

    `tables` are the files with the names of each split's images. Equal sets, and no others, have equal fingerprints.
    """

    classes: list[str]
    fit: dict[str, Any]
    mean: list[float]
    std: list[float]
    splits: dict[str, Split]
    tables: dict[str, list[Path]]
    fingerprint: str


def write_packed(
    folder: Path,
    rows: Sequence[Row],
    decoded: Iterable[Decoded],
    fit: dict[str, Any],
    choose_left_out: Callable[[Images], Collection[str]] = lambda _: (),
    *,
    store: str = "raw",
) -> int:
    """Write the packed set of (image, label, split) rows from chunks of (names, pixels), whole or not at all.

    `rows` come in the order of the packed set, `decoded` in any; `fit` says how pictures were brought to their shape.
    Pixels are streamed to disk, or the files that are third in a chunk where `store` is encoded. `choose_left_out` is
    then given all of them, mapped or decoded when read, in the order of the rows, and names the images that are not to
    be in the set. Returns how many are.
    Raises InputError for training pixels that are all equal.
    """
    with write_whole(folder) as temporary:
        temporary.mkdir()
        everything = temporary / "everything"
        draft = (EncodedDraft if store == "encoded" else _RawDraft)(everything, len(rows), fit)
        with closing(draft):
            levels, counted = _draft(draft, rows, decoded, fit["channels"])
        left_out = set(choose_left_out(draft.images))
        kept = [at for at, (image, _, _) in enumerate(rows) if image not in left_out]
        for at in counted.difference(kept):
            levels -= _count_levels(draft.images[at][None])
        image_bytes = draft.estimate_bytes(kept)
        shards: dict[str, dict[str, int]] = {}
        for split, positions in groupby(kept, lambda at: rows[at][2]):
            part = list(positions)
            names = [rows[at][0] for at in part]
            shards[split] = {}
            for number, cut in enumerate(cut_shards(names, image_bytes=image_bytes)):
                shard = f"{split}-{number:04}"
                draft.write_shard(temporary / shard, part[cut])
                _write_table(temporary / f"{shard}.csv", [rows[at] for at in part[cut]])
                shards[split][shard] = len(part[cut])
        everything.unlink()
        mean, std = _measure(levels)
        hashes = {path.name: hash_file(path) for path in sorted(temporary.iterdir())}
        classes = sorted({rows[at][1] for at in kept})
        meta = {"classes": classes, "fit": fit, "mean": mean, "sha256": hashes, "shards": shards, "std": std}
        if store == "encoded":
            meta["store"] = store
        meta["fingerprint"] = _hash_meta(meta)
        (temporary / "meta.json").write_text(_to_text(meta), "utf-8")
    return len(kept)


class _RawDraft:
    """Pixels in the order of the rows, in one temporary file."""

    def __init__(self, path: Path, num_rows: int, fit: dict[str, Any]) -> None:
        self._path = path
        self._shape = (num_rows, fit["channels"], fit["height"], fit["width"])
        # A memory map would keep the written pages in memory, and end the process where the disk is full.
        self._file: BinaryIO = path.open("wb")

    def add(self, rows: Sequence[int], pixels: Pixels, contents: Sequence[bytes] = ()) -> None:  # noqa: ARG002
        for row, image in zip(rows, np.ascontiguousarray(pixels), strict=True):
            self._file.seek(row * image.nbytes)
            self._file.write(image.data)

    def close(self) -> None:
        self._file.truncate(math.prod(self._shape))  # the last image may be none that was decoded
        self._file.close()

    @property
    def images(self) -> UInt8[np.ndarray, "n c h w"]:
        """Mapped anew, so that no page read stays."""
        return np.memmap(self._path, np.uint8, "r", shape=self._shape)

    def estimate_bytes(self, rows: Sequence[int]) -> int:  # noqa: ARG002
        """Of an image."""
        return math.prod(self._shape[1:])

    def write_shard(self, path: Path, rows: Sequence[int]) -> None:
        pixels = np.asarray(self.images[rows])
        with path.with_suffix(".npy").open("wb") as file:  # numpy, given a file, does not say why it was not written
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(pixels))
            file.write(pixels.data)


def _draft(
    draft: _RawDraft | EncodedDraft, rows: Sequence[Row], decoded: Iterable[Decoded], channels: int
) -> tuple[Int64[np.ndarray, "c 256"], set[int]]:
    """Take all in -> how often each level is in the pixels of training images, and which rows these are."""
    row_at = {image: at for at, (image, _, _) in enumerate(rows)}
    levels = np.zeros((channels, 256), np.int64)
    counted: set[int] = set()
    for names, pixels, *contents in decoded:
        at = [row_at[name] for name in names]
        draft.add(at, pixels, *contents)
        in_train = [place for place, row in enumerate(at) if rows[row][2] == "train"]
        levels += _count_levels(pixels[in_train])
        counted.update(at[place] for place in in_train)
    return levels, counted


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([("image", "label"), *(row[:2] for row in rows)])


def open_packed(folder: Path, *, workers: int = 0, ranks: Ranks = ALONE) -> Packed:
    """Open a packed set, whose pixels are mapped or decoded when read, then by so many `workers` (0: one per core).

    Of several `ranks` on a host one checks the files, and all share the cores.
    Raises InputError where a file is missing or not as it was written. Encoded pictures are checked when they are read.
    """
    if not (folder / "meta.json").is_file():
        raise InputError(f"{folder}: expected a packed set, found no\n  meta.json")
    try:
        text = (folder / "meta.json").read_text("utf-8")
        meta = json.loads(text)
        damaged = [] if meta["fingerprint"] == _hash_meta(meta) and text == _to_text(meta) else ["meta.json"]
        hashes, shards = meta["sha256"], meta["shards"]
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: meta.json is not that of a packed set: {error!r}") from None
    if not damaged:
        if missing := [name for name in hashes if not (folder / name).is_file()]:
            raise InputError(f"{folder}: expected a packed set, found no\n{list_problems(missing)}")
        checked = [name for name in hashes if ranks.local == 0 and not name.endswith(".bin")]
        damaged = [name for name in checked if hash_file(folder / name) != hashes[name]]
    if damaged:
        raise InputError(f"{folder}: damaged since build wrote it:\n{list_problems(damaged)}")
    workers = choose_workers(workers, ranks.on_host)
    is_raw = "store" not in meta
    if is_raw:
        _allow_open_files(len(hashes))
    label_at = {label: at for at, label in enumerate(meta["classes"])}
    splits = {}
    tables = {split: [folder / f"{shard}.csv" for shard in of_split] for split, of_split in shards.items()}
    for split, of_split in shards.items():
        images: Images
        if is_raw:
            images = Shards([np.load(folder / f"{shard}.npy", mmap_mode="r") for shard in of_split])
        else:
            images = open_encoded([folder / shard for shard in of_split], meta["fit"], workers=workers)
        labels = [label_at[label] for _, label in _read_rows(tables[split])]
        splits[split] = Split(images, np.array(labels, np.int64))
    return Packed(meta["classes"], meta["fit"], meta["mean"], meta["std"], splits, tables, meta["fingerprint"])


def read_names(packed: Packed, split: str) -> list[str]:
    """Names of a split's images, in the order of its arrays."""
    return [image for image, _ in _read_rows(packed.tables.get(split, []))]


def _read_rows(tables: Iterable[Path]) -> Iterator[list[str]]:
    for table in tables:
        with table.open(encoding="utf-8", newline="") as file:
            yield from islice(csv.reader(file), 1, None)


def _allow_open_files(count: int) -> None:
    """Raise the soft limit of open files, which is often 1,024: Python keeps one for each mapped file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count + SPARE_FILES:
        most = count + SPARE_FILES if hard == resource.RLIM_INFINITY else min(count + SPARE_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _to_text(meta: dict[str, Any]) -> str:
    return json.dumps(meta, indent=2, ensure_ascii=False) + "\n"


def _hash_meta(meta: dict[str, Any]) -> str:
    content = {key: value for key, value in meta.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _count_levels(pixels: Pixels) -> Int64[np.ndarray, "c 256"]:
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in pixels.swapaxes(0, 1)])


def _measure(levels: Int64[np.ndarray, "c 256"]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of pixels in 0..1; exact counts, so independent of their order."""
    values = np.arange(256) / 255
    mean = levels @ values / levels.sum(axis=1)
    std = np.sqrt((levels * (values - mean[:, None]) ** 2).sum(axis=1) / levels.sum(axis=1))
    if (std == 0).any():
        channel = int(std.argmin()) + 1
        raise InputError(f"train: expected different pixels, found one level in the whole of channel {channel}")
    return mean.tolist(), std.tolist()
