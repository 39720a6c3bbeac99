"""Many image files -> arrays of pixels, in worker processes where that pays."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping

import joblib
import numpy as np
from jaxtyping import UInt8

from imclass.data.images import Fit, decode_and_fit
from imclass.errors import InputError, list_problems

CHUNK_FILES = 256
CHUNK_BYTES = 4 * 2**20
SECONDS_WORTH_WORKERS = 1.5  # of decoding; starting workers takes about half of that


Chunk = tuple[list[str], UInt8[np.ndarray, "n c h w"]]


def decode_files(
    files: Iterable[tuple[str, bytes]], sha256: Mapping[str, str], to: Fit, *, workers: int
) -> Iterator[Chunk]:
    """Decode and fit (name, content) pairs -> chunks of (names, pixels), in their order.

    `sha256` gives the content hash that each named file must have. `workers` processes decode, 0 as many as there are
    cores; what takes a second or so is decoded in this process. The result does not depend on it.
    Raises InputError after the last chunk, naming every file that changed or is not a sound image.
    """
    problems: list[str] = []
    for names, pixels, found in _decode_chunks(_cut(files, sha256), to, len(sha256), workers or joblib.cpu_count()):
        problems += found
        yield names, pixels
    if problems:
        raise InputError(f"images that cannot be used: {len(problems)}\n{list_problems(sorted(problems))}")


def _decode_chunks(
    chunks: Iterator[list[tuple[str, bytes, str]]], to: Fit, num_files: int, workers: int
) -> Iterator[tuple[list[str], UInt8[np.ndarray, "n c h w"], list[str]]]:
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
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator", pre_dispatch="2*n_jobs", batch_size=1)
        yield from parallel(joblib.delayed(_decode_chunk)(chunk, to) for chunk in chunks)


def _cut(files: Iterable[tuple[str, bytes]], sha256: Mapping[str, str]) -> Iterator[list[tuple[str, bytes, str]]]:
    chunk: list[tuple[str, bytes, str]] = []
    size = 0
    for name, content in files:
        chunk.append((name, content, sha256[name]))
        size += len(content)
        if len(chunk) == CHUNK_FILES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _decode_chunk(
    chunk: list[tuple[str, bytes, str]], to: Fit
) -> tuple[list[str], UInt8[np.ndarray, "n c h w"], list[str]]:
    names: list[str] = []
    problems: list[str] = []
    pixels = np.empty((len(chunk), to.channels, to.height, to.width), np.uint8)
    for name, content, expected in chunk:
        if hashlib.sha256(content).hexdigest() != expected:
            problems.append(f"{name}: changed since prepare hashed it")
            continue
        try:
            pixels[len(names)] = decode_and_fit(name, content, to)
        except InputError as error:
            problems.append(str(error))
        else:
            names.append(name)
    return names, pixels[: len(names)], problems
