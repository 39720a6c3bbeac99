import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from imclass.data import encoded, shards
from imclass.data.augment import Draws, augment, crop_and_rotate, cut_and_rotate
from imclass.data.decode import decode_files
from imclass.data.encoded import EncodedShards, read_in_order
from imclass.data.images import decode_image, fit_image, fit_part
from imclass.data.loader import Batch, ShuffledBatches
from imclass.data.packed import Packed, open_packed, read_names, write_packed
from imclass.errors import InputError
from imclass.params import FitParams

CPU = torch.device("cpu")
FITS = [(fit, channels) for fit in ("crop", "pad", "stretch") for channels in (1, 3)]
VIEWS: dict[str, Any] = {"flip": True, "shift": 1, "rotate": 20.0, "crop": 1.0, "color": 0.3, "erase": 0.5}


def make_fit(fit: str = "crop", channels: int = 3, height: int = 20, width: int = 24) -> FitParams:
    return FitParams(channels=channels, height=height, width=width, fit=fit, background=90)  # type: ignore[arg-type]


def draw(seed: int, width: int, height: int, channels: int = 3) -> UInt8[np.ndarray, "h w c"]:
    """A picture of large structures, of another scene for each seed."""
    rough = np.random.default_rng(seed).integers(0, 256, (5, 5, channels), np.uint8)
    picture = Image.fromarray(rough.squeeze(), {1: "L", 3: "RGB", 4: "RGBA"}[channels])
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))


def save(pixels: UInt8[np.ndarray, "..."], format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def make_files(count: int = 48, side: int = 40) -> dict[str, bytes]:
    """JPEG grey, RGB and turned, PNG grey, RGB, transparent and of the fitted size, WebP; wide, square and tall."""
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: list[Callable[[int, int, int], bytes]] = [
        lambda seed, w, h: save(draw(seed, w, h), "JPEG", quality=90),
        lambda seed, w, h: save(draw(seed, w, h, 1), "JPEG", quality=90),
        lambda seed, w, h: save(draw(seed, w, h), "JPEG", exif=turned),
        lambda seed, w, h: save(draw(seed, w, h), "PNG"),
        lambda seed, w, h: save(draw(seed, w, h, 1), "PNG"),
        lambda seed, w, h: save(draw(seed, w, h, 4), "PNG"),
        lambda seed, *_: save(draw(seed, 24, 20), "PNG"),
        lambda seed, w, h: save(draw(seed, w, h), "WEBP"),
    ]
    sizes = [(side, side), (2 * side, side), (side, 3 * side // 2)]
    return {f"{at:03}": kinds[at % len(kinds)](at, *sizes[at % len(sizes)]) for at in range(count)}


def pack(folder: Path, files: dict[str, bytes], fit: FitParams, store: str, **options: Any) -> Packed:
    """With every fourth image in val and every eighth in test."""
    import hashlib

    splits = [("test" if at % 8 == 7 else "val" if at % 4 == 3 else "train") for at in range(len(files))]
    rows = [(name, "ab"[at % 2], split) for at, (name, split) in enumerate(zip(files, splits, strict=True))]
    rows.sort(key=lambda row: (row[2], row[0]))
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    chunks = decode_files(files.items(), sha256, fit, workers=1, keeps=store == "encoded", **options)
    decoded = ((chunk.names, chunk.pixels, chunk.contents) for chunk in chunks)
    write_packed(folder, rows, decoded, fit.model_dump(), store=store)
    return open_packed(folder)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Packed, Packed]:
    """One set as raw and as encoded."""
    files = make_files()
    return pack(tmp_path / "raw", files, make_fit(), "raw"), pack(tmp_path / "encoded", files, make_fit(), "encoded")


def make_batches(packed: Packed, batch_size: int = 8, **options: Any) -> ShuffledBatches:
    split = packed.splits["train"]
    views = partial(augment, **VIEWS)
    options = {"augment": views, "seed": 3, "device": CPU, **options}
    return ShuffledBatches(split.images, split.labels, batch_size=batch_size, **options)


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs) > 0
    for (images, labels), (their_images, their_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(images, their_images)
        assert torch.equal(labels, their_labels)


# The store


@pytest.mark.parametrize(("fit", "channels"), FITS)
def test_pixels_and_their_statistics_are_those_of_a_raw_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: str, channels: int
) -> None:
    monkeypatch.setattr(shards, "SHARD_IMAGES", 4)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    raw, ours = (pack(tmp_path / store, make_files(), make_fit(fit, channels), store) for store in ("raw", "encoded"))
    assert len(ours.tables["train"]) > 3
    assert (ours.mean, ours.std, ours.classes, ours.fit) == (raw.mean, raw.std, raw.classes, raw.fit)
    for split, theirs in raw.splits.items():
        images = ours.splits[split].images
        assert (images.shape, images.dtype, images.nbytes, len(images)) == (
            *(theirs.images.shape, theirs.images.dtype, theirs.images.nbytes),
            len(theirs.images),
        )
        expected = np.asarray(theirs.images)
        np.testing.assert_array_equal(np.asarray(images), expected)
        np.testing.assert_array_equal(ours.splits[split].labels, theirs.labels)
        assert read_names(ours, split) == read_names(raw, split)
        keys: list[Any] = [0, -1, slice(1, None, 2), np.array([[2, 0], [2, 1]]), expected.any(axis=(1, 2, 3))]
        for key in keys:
            np.testing.assert_array_equal(images[key], expected[key])


def test_files_are_kept_as_they_came_and_nothing_else_is_left(tmp_path: Path) -> None:
    files = make_files()
    packed = pack(tmp_path / "packed", files, make_fit(), "encoded")
    kept = b"".join(path.read_bytes() for path in sorted((tmp_path / "packed").glob("train-*.bin")))
    assert kept == b"".join(files[name] for name in read_names(packed, "train"))
    assert {path.suffix for path in (tmp_path / "packed").iterdir()} == {".bin", ".npy", ".csv", ".json"}


def test_quality_makes_every_picture_a_jpeg_of_its_full_size(tmp_path: Path) -> None:
    files = make_files()
    packed = pack(tmp_path / "packed", files, make_fit(), "encoded", quality=50)
    images = packed.splits["test"].images
    assert isinstance(images, EncodedShards)
    for row, name in enumerate(read_names(packed, "test")):
        before = decode_image(name, files[name], background=90)
        after = Image.open(io.BytesIO(images.read_file(row)))
        assert (after.format, after.mode) == ("JPEG", "L" if len(before) == 1 else "RGB")
        assert (after.height, after.width) == before.shape[1:]
        assert np.abs(np.asarray(after, int) - before.transpose(1, 2, 0).squeeze()).mean() < 12
    pixels = np.asarray(packed.splits["train"].images).astype(float) / 255
    np.testing.assert_allclose(packed.mean, pixels.mean(axis=(0, 2, 3)))  # of what is left of the pictures


def test_left_out_images_are_as_if_they_had_never_been(tmp_path: Path) -> None:
    files = make_files(24)
    rows = [(name, "ab"[at % 2], ("train", "val", "test")[at // 10]) for at, name in enumerate(files)]
    pixels = np.stack([fit_image(decode_image("", content, background=90), make_fit()) for content in files.values()])
    chunk = list(files), pixels, list(files.values())
    left_out = {"001", "009", "012"}

    def choose(images: shards.Images) -> set[str]:
        np.testing.assert_array_equal(np.asarray(images), pixels)
        return left_out

    fit = make_fit().model_dump()
    write_packed(tmp_path / "one", rows, [chunk], fit, choose, store="encoded")
    kept = [at for at, name in enumerate(files) if name not in left_out]
    few = [chunk[0][at] for at in kept], pixels[kept], [chunk[2][at] for at in kept]
    write_packed(tmp_path / "other", [rows[at] for at in kept], [few], fit, store="encoded")
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / of).iterdir()} for of in ("one", "other"))
    assert one == other


def test_damage_is_found_when_the_picture_is_read_and_a_cut_shard_at_once(tmp_path: Path) -> None:
    pack(tmp_path, make_files(side=100), make_fit(), "encoded")
    path = tmp_path / "val-0000.bin"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    images = open_packed(tmp_path).splits["val"].images
    assert images[0].shape == (3, 20, 24)
    with pytest.raises(InputError, match=r"val-0000\.bin: damaged since build wrote it, at byte [\d,]+$"):
        images[-1]
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"damaged since build wrote it:\n  val-0000.bin$"):
        open_packed(tmp_path)


# Batches


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_those_of_a_raw_set_whoever_decodes(
    pair: tuple[Packed, Packed], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    raw, ours = pair
    monkeypatch.setattr("imclass.data.loader.CHUNK_IMAGES", 16)  # of two batches
    expected = {first: read_epoch(make_batches(raw), first) for first in (0, 3)}
    for worth in (0, 2**40):  # by workers, and in this process
        monkeypatch.setattr(encoded, "WORTH_WORKERS", worth)
        ours.splits["train"].images.workers = workers  # type: ignore[union-attr]
        for first, batches in expected.items():
            assert_equal(read_epoch(make_batches(ours), first), batches)
        images = ours.splits["train"].images
        slices = read_in_order(images, range(3, len(images) - 2, 7))
        np.testing.assert_array_equal(np.concatenate(list(slices)), raw.splits["train"].images[3:-2])


def read_epoch(batches: ShuffledBatches, first: int) -> list[Batch]:
    batches.start(5, first=first)
    return list(batches)


# Parts of the full picture


@pytest.mark.parametrize(("fit", "channels"), FITS)
@pytest.mark.parametrize("size", [(96, 80), (150, 80), (70, 200), (24, 20), (9, 7)])
def test_the_part_that_is_the_whole_is_the_fitted_picture(fit: str, channels: int, size: tuple[int, int]) -> None:
    to, pixels = make_fit(fit, channels), draw(1, *size).transpose(2, 0, 1)
    whole, expected = fit_part(pixels, to, (0.0, 0.0, 1.0, 1.0)), fit_image(pixels, to)
    np.testing.assert_allclose(whole.astype(int), expected, atol=1)


@pytest.mark.parametrize(("fit", "channels"), FITS)
@pytest.mark.parametrize(
    "part", [(0.1, 0.3, 0.6, 0.8), (0.5, 0.0, 1.0, 0.5), (0.0, 0.0, 0.7, 0.7), (0.0, 0.0, 0.1, 0.1)]
)
@pytest.mark.parametrize("size", [(480, 120), (120, 400)])
def test_a_part_shows_what_it_shows_in_a_larger_fitted_picture(
    fit: str, channels: int, part: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    pixels = draw(2, *size).transpose(2, 0, 1)
    found = fit_part(pixels, make_fit(fit, channels), part).astype(int)
    large = fit_image(pixels, make_fit(fit, channels, 2000, 2400))
    left, top, right, bottom = part
    cut = large[:, round(2000 * top) : round(2000 * bottom), round(2400 * left) : round(2400 * right)]
    expected = fit_image(np.ascontiguousarray(cut), make_fit("stretch", channels))
    assert np.abs(found - expected).mean() < (6 if fit == "pad" else 2.5)  # padding ends at whole pixels


def test_parts_are_those_of_the_same_draws_with_more_detail(tmp_path: Path) -> None:
    """Pictures without detail: the same views; with detail: what a small image has lost."""
    smooth = {f"{at:02}": save(draw(at, 96, 80), "PNG") for at in range(16)}
    packed = pack(tmp_path / "smooth", smooth, make_fit(), "encoded")
    images, rows = packed.splits["train"].images, torch.arange(12)
    assert isinstance(images, EncodedShards)
    for rotate in (0.0, 15.0):
        ours, theirs = torch.Generator().manual_seed(4), torch.Generator().manual_seed(4)
        cut = cut_and_rotate(images, rows, crop=0.3, rotate=rotate, draws=Draws(ours, 12))
        expected = crop_and_rotate(
            torch.from_numpy(images[:]), crop=0.3, rotate=rotate, draws=Draws(theirs, len(images))
        )
        inside = (cut.int() - expected.int()).abs()[:, :, 5:-5, 5:-5].float()  # edges of turned ones are repeated
        assert inside.mean() < 4
        assert torch.equal(torch.rand(3, generator=ours), torch.rand(3, generator=theirs))  # as many draws
    board = np.kron((np.indices((40, 48)).sum(axis=0) % 2).astype(np.uint8) * 255, np.ones((2, 2), np.uint8))
    fine = {f"{at:02}": save(board, "PNG") for at in range(8)}
    detail = pack(tmp_path / "fine", {**smooth, **fine}, make_fit(), "encoded").splits["train"].images
    assert isinstance(detail, EncodedShards)
    quarter = np.array([[0.25, 0.25, 0.5, 0.5]])
    assert detail[0].std() < 40
    assert detail.cut(np.array([0]), quarter).std() > 100


def test_parts_are_the_same_whoever_decodes_them(pair: tuple[Packed, Packed], monkeypatch: pytest.MonkeyPatch) -> None:
    images = pair[1].splits["train"].images
    monkeypatch.setattr("imclass.data.loader.CHUNK_IMAGES", 16)
    assert isinstance(images, EncodedShards)
    cut = partial(cut_and_rotate, images, crop=0.4, rotate=10.0)
    read = []
    for worth in (0, 2**40):
        monkeypatch.setattr(encoded, "WORTH_WORKERS", worth)
        read.append(read_epoch(make_batches(pair[1], cut=cut), 1))
    assert_equal(*read)


# Workers


def test_a_damaged_picture_is_named_by_the_worker_that_met_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(tmp_path, make_files(), make_fit(), "encoded")
    path = tmp_path / "train-0000.bin"
    path.write_bytes(bytes(path.stat().st_size))
    monkeypatch.setattr(encoded, "WORTH_WORKERS", 0)
    with pytest.raises(InputError, match=r"train-0000.bin: damaged since build wrote it, at byte"):
        list(make_batches(packed))


def test_a_worker_that_crashes_is_told_in_one_message(
    pair: tuple[Packed, Packed], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(images: Tensor, *, draws: Draws) -> Tensor:  # noqa: ARG001
        os.kill(os.getpid(), signal.SIGKILL)  # without the report of faulthandler
        return images

    monkeypatch.setattr(encoded, "WORTH_WORKERS", 0)
    with pytest.raises(InputError, match="a process that decodes images ended: it was killed"):
        list(make_batches(pair[1], augment=crash))


LEFT = """
import sys, time
import numpy as np
from imclass.data.ahead import make_ahead
from imclass.data.workers import count_cores
import os
def make(task):
    print(os.getpid(), flush=True)
    time.sleep(float(sys.argv[1]) if task else 0)
    return np.zeros((1, 1, 1, 1), np.uint8)
made = make_ahead(make, range(8), (1, 1, 1, 1), workers=2)
next(made)
{}
"""


@pytest.mark.parametrize(
    ("end", "seconds"), [("sys.exit(3)", "0.5"), ("made.close()", "60"), ("os.kill(os.getpid(), 9)", "60")]
)
def test_no_worker_outlives_its_use(end: str, seconds: str) -> None:
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LEFT.format(end), seconds], capture_output=True, text=True, timeout=25)
    workers = {int(line) for line in done.stdout.split()}
    assert workers
    assert not done.stderr
    while any(Path(f"/proc/{worker}").exists() and is_running(worker) for worker in workers):
        assert time.monotonic() - start < 20
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_few_batches_are_made_ahead(pair: tuple[Packed, Packed], monkeypatch: pytest.MonkeyPatch) -> None:
    made = torch.zeros(1, dtype=torch.int64).share_memory_()

    def count(images: Tensor, *, draws: Draws) -> Tensor:  # noqa: ARG001
        made.add_(1)
        return images

    monkeypatch.setattr(encoded, "WORTH_WORKERS", 0)
    monkeypatch.setattr("imclass.data.loader.CHUNK_IMAGES", 1)
    pair[1].splits["train"].images.workers = 1  # type: ignore[union-attr]
    batches: Iterator[Batch] = iter(make_batches(pair[1], 2, augment=count))
    next(batches)
    time.sleep(0.5)
    assert made.item() <= 3
    assert len(list(batches)) == 17


def test_reading_needs_no_more_open_files_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_IMAGES", 2)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    packed = pack(tmp_path, make_files(96), make_fit(), "encoded")
    assert len(packed.tables["train"]) > 20
    before = len(list(Path("/dev/fd").iterdir()))
    np.asarray(packed.splits["train"].images)
    assert len(list(Path("/dev/fd").iterdir())) == before
