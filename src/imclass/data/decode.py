"""Many image files -> arrays of pixels, in worker processes where that pays."""

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from imclass.data.findings import Finding
from imclass.data.images import Fit, decode_picture, fit_image, has_other_suffix
from imclass.data.pictures import FLATTEST, Thumbnails, find_flat, shrink
from imclass.errors import InputError, list_problems

CHUNK_FILES = 256
CHUNK_BYTES = 4 * 2**20
CHUNKS_AHEAD = 2  # of each worker, so that none waits for the next
SECONDS_WORTH_WORKERS = 0.3  # of decoding; starting workers takes about a tenth of that
SECONDS_PER_FILE = 10  # a decoder that takes longer hangs

File = tuple[str, bytes, str]  # name, content and expected sha256


class Decoded(NamedTuple):
    """A chunk: names, pixels, original sizes (width, height, upright) and thumbnails of its sound files, what was found
    in all, and names of changed ones.
    """

    names: list[str]
    pixels: UInt8[np.ndarray, "n c h w"]
    sizes: Int64[np.ndarray, "n 2"]
    thumbnails: Thumbnails
    findings: list[Finding]
    changed: list[str]


class To(NamedTuple):
    """The shape of the decoded pictures, and the side below which a picture is told as small."""

    fit: Fit
    smallest_side: int


def decode_files(
    files: Iterable[tuple[str, bytes]], sha256: Mapping[str, str], to: Fit, *, workers: int, smallest_side: int = 1
) -> Iterator[Decoded]:
    """Decode and fit (name, content) pairs -> chunks of them, in their order.

    `sha256` gives the content hash that each named file must have. `workers` processes decode, 0 as many as there are
    cores; what takes less than a moment is decoded in this process. The result does not depend on it. Files that are
    no sound image, or ended their decoder, are among the findings only.
    Raises InputError after the last chunk, naming every file that changed.
    """
    changed: list[str] = []
    chunks = _cut(files, sha256)
    for decoded in _decode_chunks(chunks, To(to, smallest_side), len(sha256), workers or _count_cores()):
        changed += decoded.changed
        yield decoded
    if changed:
        raise InputError(f"files changed since prepare hashed them: {len(changed)}\n{list_problems(sorted(changed))}")


def _decode_chunks(chunks: Iterator[list[File]], to: To, num_files: int, workers: int) -> Iterator[Decoded]:
    first = next(chunks, None)
    if first is None:
        return
    start = time.perf_counter()
    decoded = _decode_chunk(first, to)
    # The first chunk tells how long the others will take.
    seconds_left = (time.perf_counter() - start) * (num_files / len(first) - 1)
    yield decoded
    if workers == 1 or seconds_left < SECONDS_WORTH_WORKERS:
        yield from (_decode_chunk(chunk, to) for chunk in chunks)
    else:
        yield from _decode_in_workers(chunks, to, workers)


def _decode_in_workers(chunks: Iterator[list[File]], to: To, workers: int) -> Iterator[Decoded]:
    """In the order of the chunks. When a worker dies, all that waited for one is decoded file by file to name which."""
    waiting: deque[list[File]] = deque()
    while True:
        with _start_workers(workers) as pool:
            futures: deque[Future[Decoded]] = deque()
            try:
                for chunk in chunks:
                    waiting.append(chunk)
                    futures.append(pool.submit(_decode_in_time, chunk, to))
                    if len(futures) > CHUNKS_AHEAD * workers:
                        yield futures.popleft().result()
                        waiting.popleft()
                while futures:
                    yield futures.popleft().result()
                    waiting.popleft()
            except BrokenProcessPool:
                pass
            else:
                return
        yield from _decode_one_by_one(chain.from_iterable(waiting), to)
        waiting.clear()


def _decode_one_by_one(files: Iterator[File], to: To) -> Iterator[Decoded]:
    while True:
        with _start_workers(1) as pool:
            for file in files:
                try:
                    yield pool.submit(_decode_in_time, [file], to).result()
                except BrokenProcessPool:
                    why = f"its decoder crashed, ran out of memory or took longer than {SECONDS_PER_FILE} s"
                    yield _decode_chunk([], to)._replace(findings=[Finding("unreadable", file[0], why)])
                    break
            else:
                return


def _decode_in_time(chunk: list[File], to: To) -> Decoded:
    return _decode_chunk(chunk, to, seconds_per_file=SECONDS_PER_FILE)


def _decode_chunk(chunk: list[File], to: To, *, seconds_per_file: int = 0) -> Decoded:
    names: list[str] = []
    findings: list[Finding] = []
    changed: list[str] = []
    sizes = np.empty((len(chunk), 2), np.int64)
    pixels = np.empty((len(chunk), to.fit.channels, to.fit.height, to.fit.width), np.uint8)
    for name, content, expected in chunk:
        signal.alarm(seconds_per_file)  # ends this process, also within a decoder's own code; 0: never
        if hashlib.sha256(content).hexdigest() != expected:
            changed.append(name)
            continue
        try:
            picture = decode_picture(name, content, background=to.fit.background)
        except InputError as error:
            findings.append(Finding("unreadable", name, str(error).removeprefix(f"{name}: ")))
            continue
        _, height, width = picture.pixels.shape
        pixels[len(names)] = fit_image(picture.pixels, to.fit)
        sizes[len(names)] = width, height
        names.append(name)
        if min(height, width) < to.smallest_side:
            findings.append(Finding("small", name, f"{width} x {height} pixels"))
        if picture.converted:
            findings.append(Finding("converted", name, ", ".join(picture.converted)))
        if has_other_suffix(name, picture.format):
            findings.append(Finding("wrong_extension", name, f"a {picture.format}"))
    signal.alarm(0)
    pixels = pixels[: len(names)]
    thumbnails = shrink(pixels)
    flat = np.flatnonzero(find_flat(pixels, thumbnails)).tolist()
    findings += [Finding("uniform", names[at], f"levels spread by less than {FLATTEST}") for at in flat]
    return Decoded(names, pixels, sizes[: len(names)], thumbnails, findings, changed)


def _start_workers(count: int) -> ProcessPoolExecutor:
    # Forked where that is safe: a fresh interpreter takes longer to start than to decode some thousand small pictures.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    return ProcessPoolExecutor(count, context, _end_with_parent)


def _end_with_parent() -> None:
    """Let no worker outlive a stage that is killed, and leave Ctrl-C to the stage."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cut(files: Iterable[tuple[str, bytes]], sha256: Mapping[str, str]) -> Iterator[list[File]]:
    chunk: list[File] = []
    size = 0
    for name, content in files:
        chunk.append((name, content, sha256[name]))
        size += len(content)
        if len(chunk) == CHUNK_FILES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
