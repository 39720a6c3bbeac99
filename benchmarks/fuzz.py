"""Damaged tables, archives and pictures, thousands of each -> what prepare and build make of them.

A case is a small sound source of which one file was damaged. Either the stages end well, or they stop with one clear
error; anything else ends the run, with the number by which the case can be had again: a traceback, more than
SECONDS of work, or a file that is none of their outs.
"""

import argparse
import io
import random
import re
import resource
import runpy
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.programs import ROOT
from benchmarks.report import RESULTS, describe_machine
from imclass.data.packed import open_packed
from imclass.errors import InputError
from imclass.params import load_params

ARCHIVES = ("set.zip", "set.tar", "set.tar.gz")
PICTURES = {"bmp": "BMP", "gif": "GIF", "jpg": "JPEG", "pgm": "PPM", "png": "PNG", "tif": "TIFF", "webp": "WEBP"}
FUZZED = ("annotations.csv", *ARCHIVES, *(f"cat/00.{suffix}" for suffix in PICTURES))
SPLITS = ("train", "val", "test")
# What means something to a reader of tables, of archives, of pictures.
WORDS = [
    b"\0",
    b",",
    b'"',
    b"\n",
    b"\r",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xe9",
    b"../",
    b"/etc/passwd",
    b"\\",
    b"=1+1",
]
WORDS += [
    b"PK\1\2",
    b"PK\3\4",
    b"PK\5\6",
    b"ustar",
    b"\xff\xff\xff\xff",
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xda",
    b"IEND",
]
TAR_CHECKSUM = slice(148, 156)  # of a header
SECONDS = 20  # of a processor, for one case
OUTS = {"annotations.csv", "before.csv", "packed", "findings.csv", "sizes.csv", "data.json"}

Files = dict[str, bytes]
Stages = Callable[[Path, Path], None]  # source, folder of outs


def damage(content: bytes, chance: random.Random) -> bytes:
    """A cut, a flipped bit, a hole of zeros, lost bytes, strange bytes, or a piece of the file once more."""
    at = chance.randrange(len(content))
    piece = content[at : at + chance.randint(1, 64)]
    rest = content[at + len(piece) :]
    return chance.choice(
        [
            content[:at],
            content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :],
            content[:at] + bytes(len(piece)) + rest,
            content[:at] + rest,
            content[:at] + chance.randbytes(len(piece)) + rest,
            content[:at] + piece + piece + rest,
        ]
    )


def mutate(name: str, content: bytes, chance: random.Random) -> bytes:
    """One to three kinds of damage, or what means something put in; half of the time with checksums made anew."""
    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.5:
            content = damage(content, chance) if content else content
        else:
            at, word = chance.randrange(len(content) + 1), chance.choice(WORDS)
            content = content[:at] + word + content[at + chance.choice([0, len(word)]) :]
    if chance.random() < 0.5:
        content = {"png": seal_png, "tar": seal_tar}.get(name.rpartition(".")[2], bytes)(content)
    return content


def seal_png(content: bytes) -> bytes:
    """With the checksum of each chunk as it should be, so that its decoder and not the checksum meets the damage."""
    sealed, at = bytearray(content), 8
    while at + 12 <= len(sealed):
        end = at + 8 + int.from_bytes(sealed[at : at + 4])
        sealed[end : end + 4] = struct.pack(">I", zlib.crc32(sealed[at + 4 : end])) if end + 4 <= len(sealed) else b""
        at = end + 4
    return bytes(sealed)


def seal_tar(content: bytes) -> bytes:
    """With the checksum of each header as it should be."""
    sealed = bytearray(content)
    for start in range(0, len(sealed) - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE):
        header = sealed[start : start + tarfile.BLOCKSIZE]
        if header[257:262] == b"ustar":
            header[TAR_CHECKSUM] = b" " * 8
            header[TAR_CHECKSUM] = b"%06o\0 " % sum(header)
            sealed[start : start + tarfile.BLOCKSIZE] = header
    return bytes(sealed)


def make_case(fuzzed: str) -> tuple[Files, bytes]:
    """The files of a sound source, and the content of what is to be damaged: one of them, or an archive of all."""
    files = {
        f"{label}/{at}.png": draw(at, "PNG") for label, of in (("cat", (1, 2, 3)), ("dog", (4, 5, 6))) for at in of
    }
    rows = [f"{name},{name[:3]},{split}" for name, split in zip(files, SPLITS * 2, strict=True)]
    suffix = fuzzed.rpartition(".")[2]
    if suffix in PICTURES:
        files[fuzzed] = draw(7, PICTURES[suffix])
        rows.append(f"{fuzzed},cat,train")
    files["annotations.csv"] = "\n".join(["image,label,split", *rows, ""]).encode()
    if fuzzed in ARCHIVES:
        return {}, pack_zip(files) if suffix == "zip" else pack_tar(files, "w:gz" if suffix == "gz" else "w")
    return files, files[fuzzed]


def draw(seed: int, format: str) -> bytes:
    stream = io.BytesIO()
    rough = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(rough).resize((9, 8), Image.Resampling.BICUBIC).save(stream, format)
    return stream.getvalue()


def pack_zip(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def pack_tar(files: Files, mode: Any = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def meet(base: Path, fuzzed: str, files: Files, content: bytes, run: Stages) -> str:
    """Run the stages on the source with `content` in the place of the fuzzed file -> the error, or ''."""
    shutil.rmtree(base, ignore_errors=True)
    out, folder = base / "out", base / "in"
    for name, inside in {**files, fuzzed: content}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(inside)
    out.mkdir()
    before = set(folder.rglob("*"))
    told = ""
    with limit_work():
        try:
            run(folder / fuzzed if fuzzed in ARCHIVES else folder, out)
        except InputError as error:
            told = str(error)
            assert told, "an error without a message"
            assert not (out / "packed").exists(), "a packed set in spite of an error"
        else:
            open_packed(out / "packed")
    assert {*folder.rglob("*")} == before, "a file in the source"
    assert {path.name for path in base.iterdir()} == {"in", "out"}, "a file elsewhere"
    assert {path.name for path in out.iterdir()} <= OUTS, "a file that is no out"
    return told


@contextmanager
def limit_work() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s of work")

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.md")
    options = parser.parse_args()
    prepare, build = (runpy.run_path(str(ROOT / "stages" / f"{name}.py"))[name] for name in ("prepare", "build"))
    params = load_params(ROOT / "params.yaml").model_copy(update={"workers": 1})

    def run(source: Path, out: Path) -> None:
        before = out / "annotations.csv", out / "before.csv"
        prepare(params, source, *before)
        build(params, source, *before, out / "packed", out / "findings.csv", out / "sizes.csv", out / "data.json")

    cases = {fuzzed: make_case(fuzzed) for fuzzed in FUZZED}
    outcomes: dict[str, Counter[str]] = {fuzzed: Counter() for fuzzed in FUZZED}
    with tempfile.TemporaryDirectory() as folder, patch("os.fsync"):  # many times; it is slow
        for number in range(options.first, options.first + options.cases):
            fuzzed = FUZZED[number % len(FUZZED)]
            files, content = cases[fuzzed]
            try:
                with redirect_stdout(io.StringIO()):
                    mutated = mutate(fuzzed, content, random.Random(number))
                    told = meet(Path(folder, "case"), fuzzed, files, mutated, run)
            except BaseException:
                print(f"case {number}, {fuzzed}:", file=sys.stderr)
                raise
            outcomes[fuzzed][name_outcome(told)] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    kinds = ["a report", "faulty source", "faulty table", "faults in the data", "another error"]
    lines = [
        "# Damaged data",
        "",
        f"{options.cases:,} cases, from number {options.first}: each ended with a report or one error, within "
        f"{SECONDS} s of work, and left no file but outs. Peak memory of the process over all: {peak:,.0f} MB.",
        "",
        describe_machine(),
        "",
        f"| damaged | {' | '.join(kinds)} |",
        f"| --- |{' ---: |' * len(kinds)}",
        *(f"| {fuzzed} | {' | '.join(str(found[kind]) for kind in kinds)} |" for fuzzed, found in outcomes.items()),
    ]
    print("\n".join(lines))
    options.out.write_text("\n".join(lines) + "\n")


def name_outcome(told: str) -> str:
    if not told:
        return "a report"
    if told.startswith("faults in the data"):
        return "faults in the data"
    if "(all are in " in told:
        return "faulty table" if re.search(r"line \d+: '(.*/)?annotations.csv'", told) else "faulty source"
    return "another error"


if __name__ == "__main__":
    main()
