"""scikit-learn's digits, or a labelled set of torchvision.datasets -> an archive that `data.path` can name.

The archive is a zip of PNG files and an annotations.csv; equal images give equal bytes.
"""

import csv
import gzip
import inspect
import io
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from imclass.errors import InputError
from imclass.files import write_whole

# Our split -> what torchvision's sets call it. A set with no test split has its val split judged by convention.
SPLIT_NAMES = {"train": ("train", "trainval", "train-standard"), "val": ("val", "valid"), "test": ("test",)}
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold
IDX_PREFIXES = ("train-", "t10k-")


def fetch(name: str, archive: Path, *, source: Path | None, options: Mapping[str, Any]) -> int:
    """Write the set called `name` (digits, or a class of torchvision.datasets) to `archive` -> number of images.

    `source` is a folder that holds the set's files already, as torchvision keeps them or as plain IDX files; without
    it they are downloaded. `options` are further arguments of the class, such as EMNIST's split.
    Raises InputError for an unknown name, a set without one class per image, and files that cannot be read.
    """
    if name == "digits":
        return _write_archive({"": _load_digits()}, archive)
    with tempfile.TemporaryDirectory() as folder:
        datasets = _open_torchvision(name, source, Path(folder), options)
        return _write_archive(
            {split: _Items(f"{name} {split}".rstrip(), dataset) for split, dataset in datasets.items()}, archive
        )


def _load_digits() -> list[tuple[Image.Image, str]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # its levels are 0 to 16
    return [(Image.fromarray(image), str(label)) for image, label in zip(pixels, digits.target, strict=True)]


def _open_torchvision(name: str, source: Path | None, folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The datasets of (picture, position of its class) by split, '' for a set that has none."""
    from torchvision import datasets

    kind = getattr(datasets, name, None)
    if not inspect.isclass(kind) or not issubclass(kind, datasets.VisionDataset):
        raise InputError(f"{name}: expected digits or the name of a set in torchvision.datasets")
    make: Any = kind
    accepted = {key for base in kind.__mro__ for key in inspect.signature(base).parameters}
    if unknown := sorted(set(options) - accepted):
        raise InputError(f"{name}: expected options of torchvision.datasets.{name}, found {', '.join(unknown)}")
    arguments = dict(options)
    if "root" in inspect.signature(kind).parameters:
        arguments["root"] = str(_lay_out(name, source, folder) if source else folder)
    if "download" in accepted:
        arguments["download"] = source is None
    try:
        if "train" in accepted - set(options):
            return {"train": make(**arguments, train=True), "test": make(**arguments, train=False)}
        if "split" in accepted - set(options):
            return _open_splits(make, arguments)
        return {"": make(**arguments)}
    # torchvision raises what its parsers raise on missing and damaged files: nearly everything, at times without words.
    except Exception as error:
        where = f"from {source}, expected to hold the files as torchvision keeps them" if source else "by download"
        raise InputError(f"{name}: cannot be had {where}: {type(error).__name__}: {error}") from None


def _open_splits(kind: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Every split that a class with an argument `split` offers, which it says only by refusing the others."""
    opened = {}
    refusal: ValueError | None = None
    for ours, names in SPLIT_NAMES.items():
        for split in names:
            try:
                opened[ours] = kind(**arguments, split=split)
                break
            except ValueError as error:
                refusal = error
    if not opened:
        raise refusal or ValueError("no split")
    if "test" not in opened and "val" in opened:
        opened["test"] = opened.pop("val")
    return opened


def _lay_out(name: str, source: Path, folder: Path) -> Path:
    """A root as torchvision expects it: `source` itself, or for plain IDX files `folder` with them unpacked."""
    if not source.is_dir():
        raise InputError(f"{source}: expected a folder with the files of {name}, found none")
    plain = [path for path in sorted(source.iterdir()) if path.name.startswith(IDX_PREFIXES)]
    if not plain:
        return source
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    for path in plain:
        target = raw / path.name.removesuffix(".gz")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as packed, target.open("wb") as file:
            try:
                shutil.copyfileobj(packed, file)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise InputError(f"{path}: damaged: {error}") from None
    return folder


class _Items:
    """A torchvision dataset as (picture, label) pairs with a length."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.name = name
        self.dataset = dataset
        self.classes = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple[Image.Image, str]]:
        for at in range(len(self.dataset)):
            try:
                image, target = self.dataset[at]
            except Exception as error:  # Pillow's as well
                raise InputError(f"{self.name}: image {at} cannot be read: {type(error).__name__}: {error}") from None
            if not isinstance(image, Image.Image) or not isinstance(target, int | np.integer):
                raise InputError(f"{self.name}: expected images with one class each, found {type(target).__name__}")
            label = self.classes[int(target)] if self.classes else str(target)
            yield image, label if isinstance(label, str) else ", ".join(label)  # ImageNet's are tuples of synonyms


def _write_archive(splits: Mapping[str, Any], archive: Path) -> int:
    rows = [("image", "label", "split") if "train" in splits else ("image", "label")]
    total = sum(map(len, splits.values()))
    with (
        write_whole(archive) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as opened,
        tqdm(total=total, unit="img", desc=archive.name, disable=None) as progress,
    ):
        for split, items in splits.items():
            for number, (image, label) in enumerate(items):
                path = "/".join(filter(None, ("images", split, f"{number:06}.png")))
                rows.append((path, label, split) if split else (path, label))
                _add(opened, path, _encode_png(image))
                progress.update()
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(rows)
        _add(opened, "annotations.csv", table.getvalue().encode())
    return total


def _encode_png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, ZIP_DATE)
    member.create_system = 3  # Unix, on every system
    member.external_attr = 0o644 << 16
    archive.writestr(member, content)
