"""Many image files -> arrays of pixels."""

import hashlib
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8
from tqdm import tqdm

from imclass.data.findings import Finding
from imclass.data.images import Fit, decode_image, decode_picture, encode_jpeg, fit_image, has_other_suffix
from imclass.data.pictures import FLATTEST, Thumbnails, find_flat, shrink
from imclass.data.workers import File, process_files
from imclass.errors import InputError, list_problems


@dataclass(frozen=True)
class Pictures:
    """A chunk: names, pixels and original sizes (width, height, upright) of its sound files, what was found in all,
    names of changed ones; and the bytes of the sound ones, where they are kept.
    """

    names: list[str]
    pixels: UInt8[np.ndarray, "n c h w"]
    sizes: Int64[np.ndarray, "n 2"]
    findings: list[Finding]
    changed: list[str]
    contents: list[bytes]


@dataclass(frozen=True)
class Decoded(Pictures):
    """With a thumbnail of each picture."""

    thumbnails: Thumbnails


class To(NamedTuple):
    """The shape of the decoded pictures, and the side below which a picture is told as small.

    Whether the files are kept, and the quality (1 to 100) of the JPEG files that they all become, if any.
    """

    fit: Fit
    smallest_side: int
    keeps: bool = False
    quality: int | None = None


def decode_files(
    files: Iterable[tuple[str, bytes]],
    sha256: Mapping[str, str],
    to: Fit,
    *,
    workers: int,
    smallest_side: int = 1,
    keeps: bool = False,
    quality: int | None = None,
    cluster: str | None = None,
) -> Iterator[Decoded]:
    """Decode and fit (name, content) pairs -> chunks of them, in their order.

    `sha256` gives the content hash that each named file must have. `workers` processes decode, 0 as many as there are
    cores, or the workers of the Dask scheduler at the address `cluster`; what takes less than a moment is decoded in
    this process. The result does not depend on it. Files that are no sound image, or ended their decoder, are among
    the findings only. `keeps` hands the files on as well, as JPEG of the `quality` where that is given; pixels are then
    what is left of them.
    Raises InputError for a cluster that cannot be used, and after the last chunk, naming every file that changed.
    """
    changed: list[str] = []
    hashed = ((name, content, sha256[name]) for name, content in files)
    decode = partial(_decode_and_shrink, To(to, smallest_side, keeps, quality))

    def give_up(name: str, why: str) -> Decoded:
        return replace(decode([], 0), findings=[Finding("unreadable", name, why)])

    for decoded in process_files(hashed, decode, give_up, num_files=len(sha256), workers=workers, cluster=cluster):
        changed += decoded.changed
        yield decoded
    if changed:
        raise InputError(f"files changed since prepare hashed them: {len(changed)}\n{list_problems(sorted(changed))}")


def show_progress(decoded: Iterable[Decoded], num_files: int) -> Iterator[Decoded]:
    """The same chunks, with a bar of the files that are done, where stderr is a terminal."""
    with tqdm(desc="decode", total=num_files, unit="img", disable=None) as progress:
        for chunk in decoded:
            yield chunk
            unreadable = sum(found.kind == "unreadable" for found in chunk.findings)
            progress.update(len(chunk.names) + len(chunk.changed) + unreadable)


def decode_chunk(to: To, files: list[File], seconds_per_file: int) -> Pictures:
    """Decode and fit files, in this process, which ends where one takes longer than `seconds_per_file`; 0: any time."""
    names: list[str] = []
    findings: list[Finding] = []
    changed: list[str] = []
    contents: list[bytes] = []
    sizes = np.empty((len(files), 2), np.int64)
    pixels = np.empty((len(files), to.fit.channels, to.fit.height, to.fit.width), np.uint8)
    for name, content, expected in files:
        signal.alarm(seconds_per_file)  # ends this process, also within a decoder's own code
        if expected is not None and hashlib.sha256(content).hexdigest() != expected:
            changed.append(name)
            continue
        try:
            picture = decode_picture(name, content, background=to.fit.background)
            if to.quality is not None:
                content = encode_jpeg(name, picture.pixels, quality=to.quality)
                picture = picture._replace(pixels=decode_image(name, content))
        except InputError as error:
            findings.append(Finding("unreadable", name, str(error).removeprefix(f"{name}: ")))
            continue
        _, height, width = picture.pixels.shape
        pixels[len(names)] = fit_image(picture.pixels, to.fit)
        sizes[len(names)] = width, height
        names.append(name)
        if to.keeps:
            contents.append(content)
        if min(height, width) < to.smallest_side:
            findings.append(Finding("small", name, f"{width} x {height} pixels"))
        if picture.converted:
            findings.append(Finding("converted", name, ", ".join(picture.converted)))
        if has_other_suffix(name, picture.format):
            findings.append(Finding("wrong_extension", name, f"a {picture.format}"))
    signal.alarm(0)
    return Pictures(names, pixels[: len(names)], sizes[: len(names)], findings, changed, contents)


def _decode_and_shrink(to: To, files: list[File], seconds_per_file: int) -> Decoded:
    pictures = decode_chunk(to, files, seconds_per_file)
    decoded = Decoded(**vars(pictures), thumbnails=shrink(pictures.pixels))
    flat = np.flatnonzero(find_flat(decoded.pixels, decoded.thumbnails)).tolist()
    uniform = [Finding("uniform", decoded.names[at], f"levels spread by less than {FLATTEST}") for at in flat]
    return replace(decoded, findings=decoded.findings + uniform)
