"""Decoded images <-> the packed set: a folder of few files that training maps into memory.

images.npy   uint8 N C H W, one row per row of annotations.csv: the splits one after another, each sorted by name
labels.npy   int64 N, the position of each row's label in the classes
index.csv    image,label,split of each row
meta.json    classes, counts per split, fit of the pixels, their mean and standard deviation in train
"""

import csv
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from imclass.errors import InputError
from imclass.files import hash_file, write_whole

HASHED_FILES = ("images.npy", "labels.npy", "index.csv")
IMAGES_AT_ONCE = 256
FILES = (*HASHED_FILES, "meta.json")


@dataclass(frozen=True)
class Split:
    """Images (N C H W) and labels of one split, mapped and not read; writing to them changes no file."""

    images: UInt8[np.ndarray, "n c h w"]
    labels: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Packed:
    """An opened packed set. `mean` and `std` are per channel, of pixels in 0..1, over the training split.

    Equal sets, and no others, have equal fingerprints.
    """

    folder: Path
    classes: list[str]
    fit: dict[str, Any]
    mean: list[float]
    std: list[float]
    splits: dict[str, Split]
    fingerprint: str


def write_packed(
    folder: Path,
    rows: Sequence[tuple[str, str, str]],
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
        images = temporary / "images.npy"
        levels = _write_images(images, rows, decoded, fit)
        if left_out := set(choose_left_out(np.lib.format.open_memmap(images, mode="r"))):
            everything = images.rename(temporary / "everything.npy")
            kept = [at for at, (image, _, _) in enumerate(rows) if image not in left_out]
            chunks = _read_images(everything, [(rows[at][0], at) for at in kept])
            rows = [rows[at] for at in kept]
            levels = _write_images(images, rows, chunks, fit)
            everything.unlink()
        _write_rows(temporary, rows, levels, fit)
    return len(rows)


def _write_images(
    path: Path,
    rows: Sequence[tuple[str, str, str]],
    decoded: Iterable[tuple[list[str], UInt8[np.ndarray, "_ c h w"]]],
    fit: dict[str, Any],
) -> Int64[np.ndarray, "c 256"]:
    """Write images.npy, and count the levels of each channel in train."""
    row_at = {image: at for at, (image, _, _) in enumerate(rows)}
    num_train = sum(split == "train" for _, _, split in rows)
    shape = (len(rows), fit["channels"], fit["height"], fit["width"])
    levels = np.zeros((fit["channels"], 256), np.int64)
    # A memory map would keep the written pages in memory, and end the process where the disk is full.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        first = file.tell()
        for names, pixels in decoded:
            at = np.array([row_at[name] for name in names], np.int64)
            for row, image in zip(at.tolist(), np.ascontiguousarray(pixels), strict=True):
                file.seek(first + row * image.nbytes)
                file.write(image.data)
            levels += _count_levels(pixels[at < num_train])
        file.truncate(first + math.prod(shape))  # the last image may be none that was decoded
    return levels


def _read_images(path: Path, kept: list[tuple[str, int]]) -> Iterator[tuple[list[str], UInt8[np.ndarray, "n c h w"]]]:
    images = np.lib.format.open_memmap(path, mode="r")
    for start in range(0, len(kept), IMAGES_AT_ONCE):
        part = kept[start : start + IMAGES_AT_ONCE]
        yield [name for name, _ in part], images[[at for _, at in part]]


def _write_rows(
    temporary: Path, rows: Sequence[tuple[str, str, str]], levels: Int64[np.ndarray, "c 256"], fit: dict[str, Any]
) -> None:
    """Write labels.npy, index.csv and meta.json beside images.npy."""
    classes = sorted({label for _, label, _ in rows})
    label_at = {label: at for at, label in enumerate(classes)}
    counts = Counter(split for _, _, split in rows)
    labels = io.BytesIO()  # numpy, given a file, does not say why it could not be written
    np.save(labels, np.array([label_at[label] for _, label, _ in rows], np.int64))
    (temporary / "labels.npy").write_bytes(labels.getvalue())
    with (temporary / "index.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("image", "label", "split"), *rows])
    mean, std = _measure(levels)
    hashes = {name: hash_file(temporary / name) for name in HASHED_FILES}
    meta = {"classes": classes, "fit": fit, "mean": mean, "sha256": hashes, "splits": counts, "std": std}
    meta["fingerprint"] = _hash_meta(meta)
    (temporary / "meta.json").write_text(_to_text(meta), "utf-8")


def open_packed(folder: Path) -> Packed:
    """Map a packed set. Raises InputError where its files are missing or do not fit together."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise InputError(f"{folder}: expected a packed set, found no {', '.join(missing)}")
    try:
        text = (folder / "meta.json").read_text("utf-8")
        meta = json.loads(text)
        # Mode "c" (copy on write) gives arrays that torch takes without a warning.
        images = np.lib.format.open_memmap(folder / "images.npy", mode="c")
        with (folder / "labels.npy").open("rb") as file:
            labels = np.lib.format.read_array(file, allow_pickle=False)
        shape = (sum(meta["splits"].values()), *(meta["fit"][key] for key in ("channels", "height", "width")))
        packed = Packed(
            folder,
            meta["classes"],
            meta["fit"],
            meta["mean"],
            meta["std"],
            _cut(images, labels, meta["splits"]),
            meta["fingerprint"],
        )
        damaged = [name for name in HASHED_FILES if meta["sha256"][name] != hash_file(folder / name)]
        if meta["fingerprint"] != _hash_meta(meta) or text != _to_text(meta):
            damaged.append("meta.json")
        num_classes = len(packed.classes)
        num_levels = {len(packed.mean), len(packed.std)}
    except (ArithmeticError, AttributeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: not a sound packed set: {error!r}") from None
    except (MemoryError, RecursionError) as error:  # what a header asks for
        raise InputError(f"{folder}: not a sound packed set: {error!r}") from None
    if images.dtype != np.uint8 or images.shape != shape or labels.dtype != np.int64 or labels.shape != shape[:1]:
        found = f"{images.dtype} {images.shape} and {labels.dtype} {labels.shape}"
        raise InputError(f"{folder}: expected uint8 {shape} and int64 {shape[:1]}, found {found}")
    if num_levels != {shape[1]}:
        raise InputError(f"{folder}: meta.json: expected mean and std of {shape[1]} channels")
    if not ((labels >= 0) & (labels < num_classes)).all():
        raise InputError(f"{folder}: labels.npy: expected positions among {num_classes} classes")
    if damaged:
        raise InputError(f"{folder}: damaged since build wrote it: {', '.join(damaged)}")
    return packed


def read_names(packed: Packed, split: str) -> list[str]:
    """Names of a split's images, in the order of its arrays."""
    with (packed.folder / "index.csv").open(encoding="utf-8", newline="") as file:
        return [image for image, _, of in csv.reader(file) if of == split]


def _cut(images: np.ndarray, labels: np.ndarray, counts: dict[str, int]) -> dict[str, Split]:
    splits, start = {}, 0
    for split, count in counts.items():
        splits[split] = Split(images[start : start + count], labels[start : start + count])
        start += count
    return splits


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
