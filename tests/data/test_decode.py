import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imclass.data import decode as decoding
from imclass.data import workers as working
from imclass.data.decode import decode_files
from imclass.data.images import Picture, decode_and_fit, decode_picture
from imclass.data.packed import write_packed
from imclass.data.workers import CHUNK_BYTES, CHUNK_FILES
from imclass.errors import InputError
from imclass.params import FitParams

Encode = Callable[..., bytes]
TO = FitParams(channels=1, height=5, width=4, fit="crop", background=255)


@pytest.fixture
def make_files(encode: Encode) -> Callable[[int], dict[str, bytes]]:
    def make_files(count: int) -> dict[str, bytes]:
        images = np.random.default_rng(0).integers(0, 256, (count, 6, 6), np.uint8)
        return {f"{at:05}.png": encode(Image.fromarray(image), "PNG") for at, image in enumerate(images)}

    return make_files


MakeFiles = Callable[[int], dict[str, bytes]]


def hash_files(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def decode(files: dict[str, bytes], *, workers: int = 1, sha256: dict[str, str] | None = None) -> list[Any]:
    return list(decode_files(files.items(), sha256 or hash_files(files), TO, workers=workers))


def list_unreadable(chunks: list[Any]) -> list[str]:
    return [str(found) for chunk in chunks for found in chunk.findings if found.kind == "unreadable"]


def test_each_file_gets_its_pixels_in_order(make_files: MakeFiles) -> None:
    files = make_files(600)
    chunks = decode(files)
    assert [len(chunk.names) for chunk in chunks] == [CHUNK_FILES, CHUNK_FILES, 600 - 2 * CHUNK_FILES]
    assert [name for chunk in chunks for name in chunk.names] == list(files)
    expected = np.stack([decode_and_fit(name, content, TO) for name, content in files.items()])
    np.testing.assert_array_equal(np.concatenate([chunk.pixels for chunk in chunks]), expected)


def test_workers_give_the_same_bytes_as_this_process(
    tmp_path: Path, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    start = working.Processes

    def count_starts(count: int) -> ProcessPoolExecutor:
        started.append(count)
        return start(count)

    monkeypatch.setattr(working, "Processes", count_starts)
    monkeypatch.setattr(working, "SECONDS_WORTH_WORKERS", 0.0)
    files = make_files(3 * CHUNK_FILES + 100)
    rows = [(name, "ab"[at % 2], "train") for at, name in enumerate(files)]
    for workers in 1, 2:
        chunks = [(chunk.names, chunk.pixels) for chunk in decode(files, workers=workers)]
        write_packed(tmp_path / str(workers), rows, chunks, TO.model_dump())
    assert started == [2]
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()


def test_defects_found_in_workers_are_told_as_in_this_process(
    make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "SECONDS_WORTH_WORKERS", 0.0)
    files = make_files(3 * CHUNK_FILES)
    files["00700.png"], files["00003.png"], files["00004.png"] = b"html", b"", files["00003.png"] + b"more"
    here, there = ([chunk.findings for chunk in decode(files, workers=workers)] for workers in (1, 2))
    assert here == there
    assert [found.file for found in chain(*here)] == ["00003.png", "00700.png"]


@pytest.mark.parametrize(("count", "workers"), [(10, 2), (10, 0), (3 * CHUNK_FILES, 1)])
def test_few_files_or_one_worker_start_no_process(
    make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch, count: int, workers: int
) -> None:
    monkeypatch.setattr(working, "Processes", lambda _: pytest.fail("started workers"))
    if workers == 1:
        monkeypatch.setattr(working, "SECONDS_WORTH_WORKERS", 0.0)
    assert sum(len(chunk.names) for chunk in decode(make_files(count), workers=workers)) == count


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked with the changed decoder on Linux only")
def test_file_that_kills_or_stops_its_decoder_is_named_and_the_others_are_decoded(
    make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misbehave(name: str, content: bytes, *, background: int) -> Picture:
        if name == "00300.png":
            os.kill(os.getpid(), signal.SIGKILL)
        while name == "00900.png":
            pass
        return decode_picture(name, content, background=background)

    monkeypatch.setattr(decoding, "decode_picture", misbehave)
    monkeypatch.setattr(working, "SECONDS_WORTH_WORKERS", 0.0)
    monkeypatch.setattr(working, "SECONDS_PER_FILE", 1)
    files = make_files(4 * CHUNK_FILES)
    chunks = decode(files, workers=2)
    decoded = {name: image for chunk in chunks for name, image in zip(chunk.names, chunk.pixels, strict=True)}
    why = "its decoder crashed, ran out of memory or took longer than 1 s"
    assert list_unreadable(chunks) == [f"'00300.png': {why}", f"'00900.png': {why}"]
    assert list(decoded) == [name for name in files if name not in ("00300.png", "00900.png")]
    np.testing.assert_array_equal(decoded["00301.png"], decode_and_fit("", files["00301.png"], TO))


WAIT_IN_WORKERS = """
import hashlib, os, time
from imclass.data import decode, workers
from imclass.params import FitParams

def wait(name, content, background):
    if name != "0":
        os.write(1, f"{os.getpid()}\\n".encode())  # at once: two workers share the pipe
        time.sleep(60)
    raise decode.InputError(name)

workers.CHUNK_FILES, workers.SECONDS_WORTH_WORKERS, decode.decode_picture = 1, 0.0, wait
to = FitParams(channels=1, height=5, width=4, fit="crop", background=255)
files = [(str(at), b"") for at in range(9)]
list(decode.decode_files(files, dict.fromkeys(map(str, range(9)), hashlib.sha256().hexdigest()), to, workers=2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked with the changed decoder on Linux only")
def test_workers_end_with_a_process_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", WAIT_IN_WORKERS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{worker}/fd").exists() and os.listdir(f"/proc/{worker}/fd") for worker in workers):  # noqa: PTH208
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_large_files_come_in_small_chunks(make_files: MakeFiles) -> None:
    padded = {name: content + bytes(CHUNK_BYTES // 2) for name, content in make_files(5).items()}
    assert [len(chunk.names) for chunk in decode(padded)] == [2, 2, 1]


def test_files_are_asked_for_chunk_by_chunk(make_files: MakeFiles) -> None:
    files = make_files(2 * CHUNK_FILES)
    asked = []

    def ask() -> Iterator[tuple[str, bytes]]:
        for name, content in files.items():
            asked.append(name)
            yield name, content

    chunks = decode_files(ask(), hash_files(files), TO, workers=1)
    assert asked == []
    next(chunks)
    assert len(asked) == CHUNK_FILES


def test_no_files_are_no_chunks() -> None:
    assert decode({}) == []


def test_changed_content_is_named(make_files: MakeFiles) -> None:
    files = make_files(5)
    sha256 = hash_files(files)
    files["00002.png"] = files["00003.png"]
    with pytest.raises(InputError) as caught:
        decode(files, sha256=sha256)
    assert str(caught.value) == "files changed since prepare hashed them: 1\n  00002.png"


def test_bad_images_are_named_and_those_beside_them_keep_their_pixels(make_files: MakeFiles) -> None:
    files = make_files(700)
    files |= {"00600.png": files["00600.png"][:-20], "00001.png": b"", "00300.png": b"<html>"}
    chunks = decode(files)
    assert list_unreadable(chunks) == [
        "'00001.png': an empty file",
        "'00300.png': not an image of a known format (BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP)",
        "'00600.png': not a sound image: truncated",
    ]
    names = [name for name in files if name not in ("00001.png", "00300.png", "00600.png")]
    assert [name for chunk in chunks for name in chunk.names] == names
    pixels = np.concatenate([chunk.pixels for chunk in chunks])
    np.testing.assert_array_equal(pixels, [decode_and_fit(name, files[name], TO) for name in names])
