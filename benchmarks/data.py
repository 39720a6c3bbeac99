"""Files the benchmarks read, made once under a folder: Fashion-MNIST in every layout, photos as JPEGs."""

import argparse
import csv
import gzip
import hashlib
import io
import itertools
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from imclass.data.annotations import label_images
from imclass.data.decode import decode_files
from imclass.data.packed import Packed, Split, open_packed, write_packed
from imclass.data.source import read_files
from imclass.params import FitParams
from imclass.team.fetch import fetch

FASHION_FIT = FitParams(channels=1, height=28, width=28, fit="crop", background=255)
PHOTO_FIT = FitParams(channels=3, height=64, width=64, fit="crop", background=255)
NUM_VAL = 1_000


@dataclass(frozen=True)
class Fashion:
    """Fashion-MNIST's 60,000 training images, once for each way of reading them."""

    packed: Packed
    pngs: Path  # a folder of classes and annotations.csv
    torchvision: Path  # a root of torchvision.datasets


def add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--idx", type=Path, required=True, help="folder with the four IDX files of Fashion-MNIST")
    parser.add_argument("--folder", type=Path, default=Path(__file__).with_name(".data"), help="for what is made once")


def make_fashion(folder: Path, idx_files: Path) -> Fashion:
    pngs = make_fashion_pngs(folder, idx_files)
    packed = pack(pngs, folder / "fashion-packed", FASHION_FIT, workers=0)
    return Fashion(packed, pngs, unpack_idx(folder, idx_files))


def make_fashion_zip(folder: Path, idx_files: Path) -> Path:
    """Fashion-MNIST as `imclass fetch` makes it, with the official test split."""
    archive = folder / "FashionMNIST.zip"
    if not archive.is_file():
        fetch("FashionMNIST", archive, source=idx_files, options={})
    return archive


def make_fashion_pngs(folder: Path, idx_files: Path) -> Path:
    """Fashion-MNIST's training split as a folder of classes with 60,000 PNG files, and annotations.csv beside them."""
    pngs = folder / "fashion-png"
    if not pngs.is_dir():
        archive = make_fashion_zip(folder, idx_files)
        table, _ = label_images(archive)
        train = table[table.split == "train"]
        labels = dict(zip(train.image, train.label.str.replace("/", "-"), strict=True))
        building = folder / "fashion-png.building"
        rows = []
        with zipfile.ZipFile(archive) as opened:
            for name, label in labels.items():
                path = building / label / Path(name).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(opened.read(name))
                rows.append((f"{label}/{path.name}", label))
        (building / "annotations.csv").write_text(_to_csv(rows))
        building.rename(pngs)
    return pngs


def read_idx(folder: Path, part: str) -> Split:
    """Images and labels of `train` or `t10k`, from IDX files that may be compressed."""
    images, labels = (
        np.frombuffer(_read_packed(folder / f"{part}-{kind}-ubyte"), np.uint8).copy()  # PyTorch wants to write to it
        for kind in ("images-idx3", "labels-idx1")
    )
    return Split(images[16:].reshape(-1, 1, 28, 28), labels[8:].astype(np.int64))


def _read_packed(path: Path) -> bytes:
    packed = path.with_name(f"{path.name}.gz")
    return gzip.decompress(packed.read_bytes()) if packed.is_file() else path.read_bytes()


def unpack_idx(folder: Path, idx_files: Path) -> Path:
    """The IDX files as torchvision.datasets.FashionMNIST expects them below its root."""
    root = folder / "torchvision"
    if not root.is_dir():
        building = folder / "torchvision.building"
        raw = building / "FashionMNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for path in idx_files.glob("*-ubyte*"):
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            (raw / path.name.removesuffix(".gz")).write_bytes(content)
        building.rename(root)
    return root


def make_photos(folder: Path, count: int) -> Path:
    """JPEG files of 240 to 500 pixels, cut from scikit-learn's two sample photos at seeded places and qualities."""
    from sklearn.datasets import load_sample_images

    photos = folder / f"photos-{count}"
    if not photos.is_dir():
        building = folder / f"photos-{count}.building"
        chance = np.random.default_rng(0)
        samples = load_sample_images().images
        for number in range(count):
            sample = samples[number % 2]
            height, width = chance.integers(240, 400), chance.integers(240, 500)
            top = chance.integers(0, sample.shape[0] - height)
            left = chance.integers(0, sample.shape[1] - width)
            path = building / f"class{number % 2}" / f"{number:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            crop = Image.fromarray(sample[top : top + height, left : left + width])
            crop.save(path, quality=int(chance.integers(75, 96)))
        building.rename(photos)
    return photos


def list_images(source: Path, count: int) -> list[tuple[str, str]]:
    """`count` (image, label) of a folder of classes, in the order of the numbers in their names: classes are mixed."""
    table, _ = label_images(source)
    rows = zip(table.image, table.label, strict=True)
    return sorted(rows, key=lambda row: Path(row[0]).name)[:count]


def zip_images(source: Path, archive: Path, count: int) -> Path:
    """`count` images of a folder of classes in one zip; the same ones again, under other names, where it has fewer."""
    if not archive.is_file():
        rows = list_images(source, count)
        written = []
        building = archive.with_suffix(".building")
        with zipfile.ZipFile(building, "w") as opened:
            for number, (name, label) in zip(range(count), itertools.cycle(rows), strict=False):
                inside = f"images/{number // len(rows)}/{name}"
                opened.writestr(inside, (source / name).read_bytes())
                written.append((inside, label))
            opened.writestr("annotations.csv", _to_csv(written))
        building.rename(archive)
    return archive


def pack(source: Path, packed: Path, fit: FitParams, *, workers: int, store: str = "raw") -> Packed:
    """Pack a source whole into its training split, as the build stage does."""
    if not packed.is_dir():
        table, _ = label_images(source)
        sha256 = hash_files(source, list(table.image))
        keeps = store == "encoded"
        decoded = decode_files(read_files(source, table.image), sha256, fit, workers=workers, keeps=keeps)
        rows = [(image, label, "train") for image, label in zip(table.image, table.label, strict=True)]
        chunks = ((chunk.names, chunk.pixels, chunk.contents) for chunk in decoded)
        write_packed(packed, rows, chunks, fit.model_dump(), store=store)
    return open_packed(packed)


def hash_files(source: Path, names: Collection[str]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in read_files(source, names)}


def repeat_packed(packed: Packed, folder: Path, count: int) -> Path:
    """A packed set of `count` training images, the given ones again and again, and a thousand to validate on."""
    if not folder.is_dir():
        images, labels = packed.splits["train"].images, packed.splits["train"].labels
        total = count + NUM_VAL
        splits = ["train"] * count + ["val"] * NUM_VAL
        rows = [(f"{at:07}", packed.classes[labels[at % len(labels)]], split) for at, split in enumerate(splits)]

        def cut() -> Iterator[tuple[list[str], np.ndarray]]:
            for start in range(0, total, 1000):
                at = np.arange(start, min(start + 1000, total))
                yield [rows[row][0] for row in at], images[at % len(images)]

        write_packed(folder, rows, cut(), packed.fit)
    return folder


def _to_csv(rows: Sequence[tuple[str, str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("image", "label"), *rows])
    return text.getvalue()
