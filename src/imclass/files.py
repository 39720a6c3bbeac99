"""Whole-or-nothing writes: a file or folder stands complete under its name, or not at all."""

import csv
import errno
import fcntl
import hashlib
import os
import shutil
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from imclass.errors import InputError

CHECK = "check"  # the last column of a table that a later stage reads


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and move it there, on failure remove it.

    The block creates the temporary path itself, as a file or as a folder of files. A folder already at `path` is
    replaced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with name_in_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)  # left behind by a killed run
        try:
            yield temporary
            for file in temporary.iterdir() if temporary.is_dir() else [temporary]:
                _sync(file)
            if temporary.is_dir():
                _sync(temporary)
                _remove(path)
            temporary.replace(path)
            _sync(path.parent)
        except BaseException:
            with suppress(OSError):  # what went wrong first is what to tell
                _remove(temporary)
            raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `\\n` line ends, whole or not at all."""
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_rows(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV table with `\\n` line ends, whole or not at all."""
    with write_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(chain([header], rows))


def write_checked_rows(path: Path, header: Iterable[str], rows: Collection[Iterable[Any]]) -> None:
    """Write a CSV table with a column `check` at the end, by which `find_changed_rows` sees any later change."""
    texts = ([str(value) for value in row] for row in rows)
    write_rows(path, [*header, CHECK], ([*row, _checksum(row, at, len(rows))] for at, row in enumerate(texts)))


def read_checked_rows(path: Path, header: Iterable[str]) -> list[list[str]]:
    """The rows that `write_checked_rows` wrote under `header`, without their check.

    Raises InputError for any other table, and where it has changed since.
    """
    expected = [*header, CHECK]
    try:
        with name_in_errors(path), path.open(encoding="utf-8", newline="") as file:
            found, *rows = csv.reader(file, strict=True)
    except (csv.Error, ValueError):  # no row at all is a ValueError as well
        found, rows = [], []
    if found != expected:
        raise InputError(f"{path}: expected a table with columns {','.join(expected)}")
    if changed := find_changed_rows(rows):
        raise InputError(f"{path}: damaged since it was written, at line {changed[0] + 2}")
    return [row[:-1] for row in rows]


def find_changed_rows(rows: Collection[Iterable[str]]) -> list[int]:
    """Positions of the rows, their check at the end, that are not as they were written; all where one is missing."""
    texts = (list(row) for row in rows)
    return [at for at, row in enumerate(texts) if row[-1:] != [_checksum(row[:-1], at, len(rows))]]


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Add the path to an OSError without one, as those of read and write are, and the free space where that ran out."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {error}") from None
        reason = os.strerror(error.errno)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            folder = next(folder for folder in path.absolute().parents if folder.is_dir())
            reason += f" ({shutil.disk_usage(folder).free / 1e6:,.1f} MB free)"
        raise OSError(error.errno, reason, str(error.filename or path)) from None


@contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a file or folder, which any number may read: wait until no other process holds it, and say so.

    The system lets go of it however this process ends.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{what} runs in another process: waiting for it", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with name_in_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(row: list[str], at: int, count: int) -> str:
    """CRC-32 of a row's text, of its place and of the number of rows."""
    text = "\0".join([f"{at} of {count}", *row])
    return f"{zlib.crc32(text.encode()):08x}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
