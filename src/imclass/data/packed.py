"""Decoded images <-> the packed set: a folder of shards that training maps into memory.

train-0000.npy   uint8 N C H W: images of a split, whose shards one after another are sorted by name
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
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from imclass.data.shards import Images, Shards, cut_shards
from imclass.errors import InputError, list_problems
from imclass.files import hash_file, write_whole

SPARE_FILES = 256  # that a process may have open beside the shards

Row = tuple[str, str, str]  # image, label and split


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
    decoded: Iterable[tuple[list[str], UInt8[np.ndarray, "_ c h w"]]],
    fit: dict[str, Any],
    choose_left_out: Callable[[UInt8[np.ndarray, "n c h w"]], Collection[str]] = lambda _: (),
) -> int:
    """Write the packed set of (image, label, split) rows from chunks of (names, pixels), whole or not at all.

    `rows` come in the order of the packed set, `decoded` in any; `fit` says how pictures were brought to their shape.
    Pixels are streamed to disk. `choose_left_out` is then given all of them, mapped and in the order of the rows, and
    names the images that are not to be in the set. Returns how many are.
    Raises InputError for training pixels that are all equal.
    """
    with write_whole(folder) as temporary:
        temporary.mkdir()
        everything = temporary / "everything.npy"
        _write_in_order(everything, [image for image, _, _ in rows], decoded, fit)
        left_out = set(choose_left_out(np.load(everything, mmap_mode="r")))
        kept = [at for at, (image, _, _) in enumerate(rows) if image not in left_out]
        image_bytes = fit["channels"] * fit["height"] * fit["width"]
        shards: dict[str, dict[str, int]] = {}
        levels = np.zeros((fit["channels"], 256), np.int64)
        for split, positions in groupby(kept, lambda at: rows[at][2]):
            part = list(positions)
            names = [rows[at][0] for at in part]
            shards[split] = {}
            for number, cut in enumerate(cut_shards(names, image_bytes=image_bytes)):
                shard = f"{split}-{number:04}"
                pixels = np.load(everything, mmap_mode="r")[part[cut]]  # mapped anew, so that no page read stays
                _write_shard(temporary / shard, [rows[at] for at in part[cut]], pixels)
                shards[split][shard] = len(pixels)
                if split == "train":
                    levels += _count_levels(pixels)
        everything.unlink()
        mean, std = _measure(levels)
        hashes = {path.name: hash_file(path) for path in sorted(temporary.iterdir())}
        classes = sorted({rows[at][1] for at in kept})
        meta = {"classes": classes, "fit": fit, "mean": mean, "sha256": hashes, "shards": shards, "std": std}
        meta["fingerprint"] = _hash_meta(meta)
        (temporary / "meta.json").write_text(_to_text(meta), "utf-8")
    return len(kept)


def _write_in_order(
    path: Path,
    names: Sequence[str],
    decoded: Iterable[tuple[list[str], UInt8[np.ndarray, "_ c h w"]]],
    fit: dict[str, Any],
) -> None:
    row_at = {name: at for at, name in enumerate(names)}
    # A memory map would keep the written pages in memory, and end the process where the disk is full.
    with path.open("wb") as file:
        shape = (len(names), fit["channels"], fit["height"], fit["width"])
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        first = file.tell()
        for chunk_names, pixels in decoded:
            for name, image in zip(chunk_names, np.ascontiguousarray(pixels), strict=True):
                file.seek(first + row_at[name] * image.nbytes)
                file.write(image.data)
        file.truncate(first + math.prod(shape))  # the last image may be none that was decoded


def _write_shard(path: Path, rows: Sequence[Row], pixels: UInt8[np.ndarray, "n c h w"]) -> None:
    with path.with_suffix(".npy").open("wb") as file:  # numpy, given a file, does not say why it could not be written
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(pixels))
        file.write(pixels.data)
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([("image", "label"), *(row[:2] for row in rows)])


def open_packed(folder: Path) -> Packed:
    """Map a packed set. Raises InputError where a file is missing or not as it was written."""
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
        damaged = [name for name, expected in hashes.items() if hash_file(folder / name) != expected]
    if damaged:
        raise InputError(f"{folder}: damaged since build wrote it:\n{list_problems(damaged)}")
    _allow_open_files(len(hashes))
    label_at = {label: at for at, label in enumerate(meta["classes"])}
    splits = {}
    tables = {split: [folder / f"{shard}.csv" for shard in of_split] for split, of_split in shards.items()}
    for split, of_split in shards.items():
        images = Shards([np.load(folder / f"{shard}.npy", mmap_mode="r") for shard in of_split])
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


def _count_levels(pixels: UInt8[np.ndarray, "n c h w"]) -> Int64[np.ndarray, "c 256"]:
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in pixels.swapaxes(0, 1)])


def _measure(levels: Int64[np.ndarray, "c 256"]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of pixels in 0..1; exact counts, so independent of their order."""
    values = np.arange(256) / 255
    mean = levels @ values / levels.sum(axis=1)
    std = np.sqrt((levels * (values - mean[:, None]) ** 2).sum(axis=1) / levels.sum(axis=1))
    if (std == 0).any():
        raise InputError("expected training images with different pixels, found one level in a whole channel")
    return mean.tolist(), std.tolist()
