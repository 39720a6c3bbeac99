"""Files, folders, patterns, archives and lists that a user names -> names and bytes of image files."""

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from imclass.data.findings import DataError, Finding
from imclass.data.source import MAX_FILE_BYTES, is_archive, is_image, list_files, read_files
from imclass.errors import InputError

STDIN = "-"


class Archive(NamedTuple):
    """A zip or tar, and its members that are images by their names."""

    name: str
    members: list[str]


@dataclass(frozen=True)
class Inputs:
    """Files and archives in the order of what names them, and how many other files were left out beside them."""

    files: list[str | Archive]
    left_out: int

    @property
    def num_images(self) -> int:
        return sum(len(file.members) if isinstance(file, Archive) else 1 for file in self.files)

    def share_out(self, rank: int, ranks: int) -> "Inputs":
        """One of as many stretches as there are ranks, of the same length to one image."""
        first, end = (self.num_images * at // ranks for at in (rank, rank + 1))
        files: list[str | Archive] = []
        for file in self.files:
            members = file.members if isinstance(file, Archive) else [file]
            own = members[max(0, first) : max(0, end)]
            first, end = first - len(members), end - len(members)
            if own:
                files.append(Archive(file.name, own) if isinstance(file, Archive) else file)
        return Inputs(files, self.left_out)


def list_inputs(names: Iterable[str], stdin: IO[bytes]) -> Inputs:
    """Find all images that `names` stand for.

    A folder stands for all images in it, by their names and sorted as data.source does, a pattern for what matches it,
    an archive for its images, `-` for the files that `stdin` names, one per line or NUL. A file is taken by any name.
    Raises InputError for a name that stands for nothing.
    """
    files: list[str | Archive] = []
    left_out = 0
    for name in names:
        if name == STDIN:
            found = Inputs([_take_file(line) for line in _read_lines(stdin)], 0)
        elif Path(name).is_dir():
            found = _list_folder(name)
        elif glob.has_magic(name) and not Path(name).exists():
            found = _match(name)
        else:
            found = Inputs([_take_file(name)], 0)
        if not found.num_images:
            beside = f", beside {found.left_out} other files" if found.left_out else ""
            raise InputError(f"{name}: expected images, found none{beside}")
        files += found.files
        left_out += found.left_out
    return Inputs(files, left_out)


def read_inputs(files: Iterable[str | Archive], unreadable: list[Finding]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) in order, members of an archive as ARCHIVE/MEMBER and as it stores them.

    What cannot be read is added to `unreadable`.
    """
    for file in files:
        if isinstance(file, Archive):
            try:
                for name, content in read_files(Path(file.name), file.members):
                    yield f"{file.name}/{name}", content
            except DataError as error:
                for fault in error.findings:
                    name = f"{file.name}/{fault.file}" if fault.file else file.name
                    unreadable.append(Finding("unreadable", name, fault.detail))
        else:
            try:
                content = _read_file(file)
            except InputError as error:
                unreadable.append(Finding("unreadable", file, str(error)))
            except OSError as error:
                unreadable.append(Finding("unreadable", file, error.strerror or str(error)))
            else:
                yield file, content


def _list_folder(folder: str) -> Inputs:
    names = list_files(Path(folder))
    images = [f"{folder.rstrip('/')}/{name}" for name in names if is_image(name)]
    return Inputs(list(images), len(names) - len(images))


def _match(pattern: str) -> Inputs:
    takes: dict[str, bool] = {}  # each name once: ** matches a folder and what is in it
    for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207
        if Path(name).is_dir():
            for inside in list_files(Path(name)):
                takes.setdefault(f"{name.rstrip('/')}/{inside}", is_image(inside))
        else:
            takes[name] = is_image(os.path.basename(name)) or is_archive(name)  # noqa: PTH119
    files = [_take_file(name) for name, takes_it in takes.items() if takes_it]
    return Inputs(files, len(takes) - len(files))


def _take_file(name: str) -> str | Archive:
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116
    except (OSError, ValueError):
        raise InputError(f"{name}: expected an image, folder, archive or pattern, found nothing there") from None
    if not stat.S_ISREG(mode):
        what = "a folder; find -type f names files only" if stat.S_ISDIR(mode) else "neither a file nor a folder"
        raise InputError(f"{name}: expected a file, found {what}")
    if not is_archive(name):
        return name
    return Archive(name, [member for member in list_files(Path(name)) if is_image(member)])


def _read_lines(stdin: IO[bytes]) -> list[str]:
    content = stdin.read()
    lines = content.split(b"\0" if b"\0" in content else b"\n")
    return [os.fsdecode(line) for line in lines if line]


def _read_file(name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY)  # an object for each file takes longer than to read a small picture
    try:
        size = os.fstat(descriptor).st_size
        if size > MAX_FILE_BYTES:
            raise InputError(f"expected at most {MAX_FILE_BYTES} bytes, found {size}")
        content = os.read(descriptor, size)
    finally:
        os.close(descriptor)
    if len(content) != size:
        raise InputError(f"expected {size} bytes, found {len(content)}")
    return content
