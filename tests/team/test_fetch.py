import csv
import gc
import gzip
import io
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imclass.cli import main
from imclass.data.packed import open_packed
from imclass.errors import InputError
from imclass.team.fetch import fetch

ROOT = Path(__file__).parents[2]
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
FASHION_CLASSES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]

Row = tuple[str, ...]


def read_rows(archive: Path) -> list[Row]:
    """The rows of its annotations.csv, without the header."""
    with zipfile.ZipFile(archive) as opened:
        table = csv.reader(io.StringIO(opened.read("annotations.csv").decode()))
        return [tuple(row) for row in table][1:]


def read_pixels(archive: Path, names: list[str]) -> list[np.ndarray]:
    with zipfile.ZipFile(archive) as opened:
        return [np.asarray(Image.open(io.BytesIO(opened.read(name)))) for name in names]


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encode_idx(array: np.ndarray) -> bytes:
    """Magic number (type 8 is uint8, then the number of axes), the axes, the values; as LeCun's page says."""
    return struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def read_idx(path: Path) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = struct.unpack_from(f">{axes}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def write_idx(folder: Path, names: tuple[str, str] = ("train-", "t10k-"), classes: int = 10) -> dict[str, np.ndarray]:
    """Plain IDX files of 30 train and 20 test images -> their pixels by split."""
    folder.mkdir(parents=True)
    pixels = {}
    for split, name, count in zip(("train", "test"), names, (30, 20), strict=True):
        pixels[split] = random_pixels(count, 28, 28, seed=count)
        (folder / f"{name}images-idx3-ubyte").write_bytes(encode_idx(pixels[split]))
        (folder / f"{name}labels-idx1-ubyte").write_bytes(encode_idx(np.arange(count) % classes))
    return pixels


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_has_the_pixels_labels_and_splits_of_its_files(tmp_path: Path) -> None:
    archive = tmp_path / "fashion.zip"
    assert fetch("FashionMNIST", archive, source=FASHION_MNIST, options={}) == 70_000
    rows = read_rows(archive)
    expected: list[Row] = []
    for split, prefix, count in ("train", "train", 60_000), ("test", "t10k", 10_000):
        labels = read_idx(FASHION_MNIST / f"{prefix}-labels-idx1-ubyte.gz")
        expected += [
            (f"images/{split}/{at:06}.png", FASHION_CLASSES[label], split) for at, label in enumerate(labels.tolist())
        ]
        assert len(labels) == count
        images = read_idx(FASHION_MNIST / f"{prefix}-images-idx3-ubyte.gz")
        chosen = np.random.default_rng(0).choice(count, 300, replace=False)
        found = read_pixels(archive, [f"images/{split}/{at:06}.png" for at in chosen])
        np.testing.assert_array_equal(found, images[chosen])
    assert rows == expected


def test_same_files_give_the_same_archive(tmp_path: Path) -> None:
    write_idx(tmp_path / "idx")
    for name in "one", "two":
        fetch("MNIST", tmp_path / name, source=tmp_path / "idx", options={})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_idx_files_may_be_compressed_and_keep_their_pixels(tmp_path: Path) -> None:
    pixels = write_idx(tmp_path / "idx")
    for file in (tmp_path / "idx").iterdir():
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert fetch("KMNIST", tmp_path / "k.zip", source=tmp_path / "idx", options={}) == 50
    rows = read_rows(tmp_path / "k.zip")
    kana = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]
    assert [label for _, label, _ in rows] == kana * 5
    found = read_pixels(tmp_path / "k.zip", [name for name, _, _ in rows])
    np.testing.assert_array_equal(found, np.concatenate([pixels["train"], pixels["test"]]))


def test_emnist_takes_its_split_as_an_option(tmp_path: Path) -> None:
    folder = tmp_path / "root/EMNIST/raw"
    write_idx(folder, ("emnist-letters-train-", "emnist-letters-test-"), classes=27)
    assert fetch("EMNIST", tmp_path / "e.zip", source=tmp_path / "root", options={"split": "letters"}) == 50
    rows = read_rows(tmp_path / "e.zip")
    assert [split for *_, split in rows] == ["train"] * 30 + ["test"] * 20
    assert [label for _, label, _ in rows[1:27]] == list("abcdefghijklmnopqrstuvwxyz")


def test_made_up_images_follow_the_options(tmp_path: Path) -> None:
    options = {"size": 12, "image_size": [3, 5, 7], "num_classes": 4}
    assert fetch("FakeData", tmp_path / "fake.zip", source=None, options=options) == 12
    rows = read_rows(tmp_path / "fake.zip")
    assert {len(row) for row in rows} == {2}, "no split"
    assert {label for _, label in rows} <= set("0123")
    assert {pixels.shape for pixels in read_pixels(tmp_path / "fake.zip", [name for name, _ in rows])} == {(5, 7, 3)}


def test_cifar10_is_read_from_its_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder = tmp_path / "root/cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    pixels = random_pixels(6, 2, 3, 32, 32)
    for name, batch in zip(names, pixels, strict=True):
        (folder / name).write_bytes(pickle.dumps({"data": batch.reshape(2, -1), "labels": [3, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car", "bird", "cat"]}))
    assert fetch("CIFAR10", tmp_path / "c.zip", source=tmp_path / "root", options={}) == 12
    rows = read_rows(tmp_path / "c.zip")
    assert [row[1:] for row in rows] == [("cat", "train"), ("car", "train")] * 5 + [("cat", "test"), ("car", "test")]
    found = read_pixels(tmp_path / "c.zip", [name for name, _, _ in rows])
    np.testing.assert_array_equal(found, pixels.reshape(12, 3, 32, 32).transpose(0, 2, 3, 1))


def write_textures(root: Path, splits: Mapping[str, list[str]]) -> None:
    """DTD: a list of images a split, in folders of their classes."""
    (root / "dtd/dtd/labels").mkdir(parents=True)
    for at, (split, names) in enumerate(splits.items()):
        (root / f"dtd/dtd/labels/{split}1.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            path = root / "dtd/dtd/images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random_pixels(6, 5, 3, seed=at)).save(path, "PNG")


TEXTURES = {"train": ["dots/1.jpg", "waves/1.jpg"], "val": ["waves/2.jpg"], "test": ["waves/3.jpg", "dots/3.jpg"]}


def test_set_with_three_splits_keeps_them_and_each_image_its_class(tmp_path: Path) -> None:
    write_textures(tmp_path / "root", TEXTURES)
    assert fetch("DTD", tmp_path / "dtd.zip", source=tmp_path / "root", options={}) == 5
    assert read_rows(tmp_path / "dtd.zip") == [
        ("images/train/000000.png", "dots", "train"),
        ("images/train/000001.png", "waves", "train"),
        ("images/val/000000.png", "waves", "val"),
        ("images/test/000000.png", "waves", "test"),
        ("images/test/000001.png", "dots", "test"),
    ]
    np.testing.assert_array_equal(
        read_pixels(tmp_path / "dtd.zip", ["images/val/000000.png"])[0], random_pixels(6, 5, 3, seed=1)
    )


def test_val_split_is_the_test_split_of_a_set_without_one(tmp_path: Path) -> None:
    for split in "train", "val":
        for wnid in "n01440764", "n02979186":
            folder = tmp_path / "root/imagenette2" / split / wnid
            folder.mkdir(parents=True)
            Image.fromarray(random_pixels(4, 4, 3)).save(folder / "1.JPEG")
    fetch("Imagenette", tmp_path / "i.zip", source=tmp_path / "root", options={})
    assert [row[1:] for row in read_rows(tmp_path / "i.zip")] == [
        ("tench, Tinca tinca", "train"),
        ("cassette player", "train"),
        ("tench, Tinca tinca", "test"),
        ("cassette player", "test"),
    ]


def leave_missing(_: Path) -> None:
    pass


def cut_compressed(source: Path) -> None:
    write_idx(source)
    content = gzip.compress((source / "train-images-idx3-ubyte").read_bytes())
    (source / "train-images-idx3-ubyte").unlink()
    (source / "train-images-idx3-ubyte.gz").write_bytes(content[:-100])


def flip_compressed(source: Path) -> None:
    write_idx(source)
    content = bytearray(gzip.compress((source / "train-labels-idx1-ubyte").read_bytes()))
    content[10] ^= 0x06  # the first block is then of the type that does not exist
    (source / "train-labels-idx1-ubyte").unlink()
    (source / "train-labels-idx1-ubyte.gz").write_bytes(bytes(content))


def cut_plain(source: Path) -> None:
    write_idx(source)
    labels = source / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])


def lie_about_type(source: Path) -> None:
    write_idx(source)
    images = source / "train-images-idx3-ubyte"
    images.write_bytes(b"\0\0\x0a\3" + images.read_bytes()[4:])


def leave_labels_out(source: Path) -> None:
    write_idx(source)
    (source / "train-labels-idx1-ubyte").write_bytes(encode_idx(np.arange(29) % 10))


def remove_file(source: Path) -> None:
    write_idx(source)
    (source / "t10k-images-idx3-ubyte").unlink()


def write_damaged_texture(source: Path) -> None:
    write_textures(source, TEXTURES)
    image = source / "dtd/dtd/images/waves/3.jpg"
    image.write_bytes(image.read_bytes()[:60])


def write_unknown_texture(source: Path) -> None:
    write_textures(source, TEXTURES)
    (source / "dtd/dtd/images/waves/3.jpg").unlink()


def write_faces(source: Path) -> None:
    """CelebA: 40 yes-or-no labels an image."""
    folder = source / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{at:06}.jpg" for at in range(6)]
    for name in names:
        Image.fromarray(random_pixels(4, 4, 3)).save(folder / "img_align_celeba" / name)
    tables: dict[str, tuple[str, str]] = {
        "list_attr_celeba.txt": ("6\nBald Young\n", "1 -1"),
        "identity_CelebA.txt": ("", "1"),
        "list_bbox_celeba.txt": ("6\nx y width height\n", "1 1 2 2"),
        "list_landmarks_align_celeba.txt": ("6\nx y\n", "1 1"),
    }
    for table, (header, values) in tables.items():
        (folder / table).write_text(header + "".join(f"{name} {values}\n" for name in names))
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {at // 2}\n" for at, name in enumerate(names)))


@pytest.mark.parametrize(
    ("name", "lay_out", "options", "message"),
    [
        ("FashionMNST", Path.mkdir, {}, "FashionMNST: expected digits or the name of a set"),
        ("wrap_dataset_for_transforms_v2", Path.mkdir, {}, "expected digits or the name of a set"),
        ("MNIST", Path.mkdir, {"splt": "x"}, "expected options of torchvision.datasets.MNIST, found splt"),
        ("EMNIST", Path.mkdir, {}, "EMNIST: .*missing 1 required positional argument: 'split'"),
        ("EMNIST", Path.mkdir, {"split": "words"}, "EMNIST: .*'words'"),
        ("CIFAR10", Path.mkdir, {}, "CIFAR10: cannot be had from .*: RuntimeError: Dataset not found"),
        ("FashionMNIST", leave_missing, {}, "expected a folder with the files of FashionMNIST, found none"),
        ("FashionMNIST", remove_file, {}, "FashionMNIST: cannot be had from .*: RuntimeError: Dataset not found"),
        ("FashionMNIST", cut_compressed, {}, "train-images-idx3-ubyte.gz: damaged"),
        ("FashionMNIST", flip_compressed, {}, "train-labels-idx1-ubyte.gz: damaged"),
        ("FashionMNIST", cut_plain, {}, "FashionMNIST: cannot be had from .*RuntimeError"),
        ("FashionMNIST", lie_about_type, {}, "FashionMNIST: cannot be had from .*KeyError"),
        ("FashionMNIST", leave_labels_out, {}, "FashionMNIST train: image 29 cannot be read: IndexError"),
        ("DTD", write_damaged_texture, {}, "DTD test: image 0 cannot be read: "),
        ("DTD", write_unknown_texture, {}, "DTD test: image 0 cannot be read: .*3.jpg"),
    ],
)
def test_refusals(
    name: str, lay_out: Callable[[Path], None], options: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    lay_out(tmp_path / "source")
    with pytest.raises(InputError, match=message):
        fetch(name, tmp_path / "to/a.zip", source=tmp_path / "source", options=options)
    assert not list(tmp_path.glob("to/*"))
    assert not list(tmp_path.glob("to/.*"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchvision leaves an image open
def test_set_with_several_labels_an_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.celeba.check_integrity", lambda *_: True)
    write_faces(tmp_path / "source")
    with pytest.raises(InputError, match="CelebA train: expected images with one class each, found Tensor"):
        fetch("CelebA", tmp_path / "to/a.zip", source=tmp_path / "source", options={})
    assert not list(tmp_path.glob("to/*"))
    gc.collect()  # so that the image is missed here and in no later test


def call_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Run `imclass` in this process -> what it exits with."""
    monkeypatch.setattr(sys, "argv", ["imclass", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_command_writes_below_data_raw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--option", "size=6", "--option", "image_size=[1, 4, 4]", "--option", "num_classes=2")
    assert call_cli(monkeypatch, "fetch", "FakeData", *options) == 0
    assert capsys.readouterr().out == "data/raw/FakeData.zip: 6 images\n"
    assert len(read_rows(tmp_path / "data/raw/FakeData.zip")) == 6


def test_command_ends_with_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = call_cli(monkeypatch, "fetch", "FashionMNIST", "--from", "nowhere")
    assert found == "imclass: nowhere: expected a folder with the files of FashionMNIST, found none"
    assert not list(tmp_path.iterdir())


def run_script(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_digits_are_the_archive_in_git_and_come_without_a_progress_bar(tmp_path: Path) -> None:
    done = run_script(str(Path(sys.executable).with_name("imclass")), "fetch", "digits", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "data/raw/digits.zip: 1797 images\n", "")
    assert (tmp_path / "data/raw/digits.zip").read_bytes() == (ROOT / "data/raw/digits.zip").read_bytes()


def test_installed_command_fails_with_one_line(tmp_path: Path) -> None:
    command = str(Path(sys.executable).with_name("imclass"))
    done = run_script(command, "fetch", "digits", "--option", "size", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "imclass: --option: expected KEY=VALUE, found 'size'\n"


def test_fetched_archive_goes_through_prepare_and_build(tmp_path: Path) -> None:
    pixels = write_idx(tmp_path / "idx")
    fetch("MNIST", tmp_path / "mnist.zip", source=tmp_path / "idx", options={})
    params = (ROOT / "params.yaml").read_text()
    for side in "height", "width":
        params, count = re.subn(rf"^  {side}: \d+", f"  {side}: 28", params, flags=re.MULTILINE)
        assert count == 1
    (tmp_path / "params.yaml").write_text(params)
    for stage, *outs in (
        ("prepare", "annotations.csv", "before.csv"),
        (
            "build",
            *("annotations.csv", "before.csv", "packed", "findings.csv", "sizes.csv", "data.json"),
        ),
    ):
        done = run_script(sys.executable, str(ROOT / f"stages/{stage}.py"), "mnist.zip", *outs, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    packed = open_packed(tmp_path / "packed")
    assert len(packed.splits["train"].labels) + len(packed.splits["val"].labels) == 30
    np.testing.assert_array_equal(np.asarray(packed.splits["test"].images)[:, 0], pixels["test"])
    assert [packed.classes[label][0] for label in packed.splits["test"].labels] == list("0123456789") * 2
