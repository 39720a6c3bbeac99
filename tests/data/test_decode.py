import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imclass.data import decode as decoding
from imclass.data.decode import CHUNK_BYTES, CHUNK_FILES, decode_files
from imclass.data.images import decode_and_fit
from imclass.data.packed import FILES, write_packed
from imclass.errors import InputError
from imclass.params import BuildParams

Encode = Callable[..., bytes]
TO = BuildParams(channels=1, height=5, width=4, fit="crop", background=255)


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


def refuse(files: dict[str, bytes], **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        decode(files, **options)
    return str(caught.value)


def test_each_file_gets_its_pixels_in_order(make_files: MakeFiles) -> None:
    files = make_files(600)
    chunks = decode(files)
    assert [len(names) for names, _ in chunks] == [CHUNK_FILES, CHUNK_FILES, 600 - 2 * CHUNK_FILES]
    assert [name for names, _ in chunks for name in names] == list(files)
    expected = np.stack([decode_and_fit(name, content, TO) for name, content in files.items()])
    np.testing.assert_array_equal(np.concatenate([pixels for _, pixels in chunks]), expected)


def test_workers_give_the_same_bytes_as_this_process(
    tmp_path: Path, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    start = decoding._start_workers

    def count_starts(count: int) -> ProcessPoolExecutor:
        started.append(count)
        return start(count)

    monkeypatch.setattr(decoding, "_start_workers", count_starts)
    monkeypatch.setattr(decoding, "SECONDS_WORTH_WORKERS", 0.0)
    files = make_files(3 * CHUNK_FILES + 100)
    rows = [(name, "ab"[at % 2], "train") for at, name in enumerate(files)]
    for workers in 1, 2:
        write_packed(tmp_path / str(workers), rows, decode(files, workers=workers), TO.model_dump())
    assert started == [2]
    for name in FILES:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_defects_found_in_workers_are_told_as_in_this_process(
    make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "SECONDS_WORTH_WORKERS", 0.0)
    files = make_files(3 * CHUNK_FILES)
    sha256 = hash_files(files)
    files["00700.png"], files["00003.png"] = b"html", files["00004.png"]
    sha256["00700.png"] = hashlib.sha256(b"html").hexdigest()
    assert refuse(files, sha256=sha256, workers=2) == refuse(files, sha256=sha256, workers=1)


@pytest.mark.parametrize(("count", "workers"), [(10, 2), (10, 0), (3 * CHUNK_FILES, 1)])
def test_few_files_or_one_worker_start_no_process(
    make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch, count: int, workers: int
) -> None:
    monkeypatch.setattr(decoding, "_start_workers", lambda _: pytest.fail("started workers"))
    if workers == 1:
        monkeypatch.setattr(decoding, "SECONDS_WORTH_WORKERS", 0.0)
    assert sum(len(names) for names, _ in decode(make_files(count), workers=workers)) == count


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked with the changed decoder on Linux only")
def test_file_that_kills_or_stops_its_decoder_is_named_and_the_others_are_decoded(
    make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misbehave(name: str, content: bytes, to: BuildParams) -> np.ndarray:
        if name == "00300.png":
            os.kill(os.getpid(), signal.SIGKILL)
        while name == "00900.png":
            pass
        return decode_and_fit(name, content, to)

    monkeypatch.setattr(decoding, "decode_and_fit", misbehave)
    monkeypatch.setattr(decoding, "SECONDS_WORTH_WORKERS", 0.0)
    monkeypatch.setattr(decoding, "SECONDS_PER_FILE", 1)
    files = make_files(4 * CHUNK_FILES)
    decoded: dict[str, np.ndarray] = {}

    def decode_all() -> None:
        for names, pixels in decode_files(files.items(), hash_files(files), TO, workers=2):
            decoded.update(zip(names, pixels, strict=True))

    with pytest.raises(InputError) as caught:
        decode_all()
    why = "its decoder crashed, ran out of memory or took longer than 1 s"
    assert str(caught.value) == f"images that cannot be used: 2\n  00300.png: {why}\n  00900.png: {why}"
    assert list(decoded) == [name for name in files if name not in ("00300.png", "00900.png")]
    np.testing.assert_array_equal(decoded["00301.png"], decode_and_fit("", files["00301.png"], TO))


WAIT_IN_WORKERS = """
import hashlib, os, time
from imclass.data import decode
from imclass.params import BuildParams

def wait(name, content, to):
    if name != "0":
        print(os.getpid(), flush=True)
        time.sleep(60)
    return 0

decode.CHUNK_FILES, decode.SECONDS_WORTH_WORKERS, decode.decode_and_fit = 1, 0.0, wait
to = BuildParams(channels=1, height=5, width=4, fit="crop", background=255)
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
    assert [len(names) for names, _ in decode(padded)] == [2, 2, 1]


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
    message = refuse(files, sha256=sha256)
    assert message == "images that cannot be used: 1\n  00002.png: changed since prepare hashed it"


def test_all_bad_images_are_named_in_one_message(make_files: MakeFiles) -> None:
    files = make_files(700)
    sha256 = hash_files(files)
    sound = files["00600.png"]
    for name, content in ("00600.png", sound[:-20]), ("00001.png", b""), ("00300.png", b"<html>"):
        files[name] = content
        sha256[name] = hashlib.sha256(content).hexdigest()
    files["00650.png"] = sound
    lines = refuse(files, sha256=sha256).splitlines()
    assert lines[0] == "images that cannot be used: 4"
    assert [line.split(":")[0] for line in lines[1:]] == ["  00001.png", "  00300.png", "  00600.png", "  00650.png"]


def test_many_bad_images_are_counted(make_files: MakeFiles) -> None:
    files = dict.fromkeys(make_files(50), b"")
    lines = refuse(files).splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("images that cannot be used: 50", "  and 30 more", 22)


def test_sound_images_beside_a_bad_one_keep_their_pixels(make_files: MakeFiles) -> None:
    files = make_files(5)
    files["00002.png"] = b"bad"
    chunks = decode_files(files.items(), hash_files(files), TO, workers=1)
    names, pixels = next(chunks)
    assert names == ["00000.png", "00001.png", "00003.png", "00004.png"]
    np.testing.assert_array_equal(pixels, [decode_and_fit(name, files[name], TO) for name in names])
    with pytest.raises(InputError, match="00002.png"):
        next(chunks)
