"""A folder or an archive (zip, tar) -> names and bytes of its files.

Archives are streamed and never extracted: nothing in them can be written anywhere.
"""

import functools
import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from imclass.data.findings import DataError, Finding
from imclass.errors import InputError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
WHOLE = ""  # stands for the name in faults of a whole archive
MAX_FILE_BYTES = 256 * 2**20  # no picture file is larger; a compressed bomb is refused by its declared size
MAX_MEMBERS = 2**22  # of an archive; the largest public sets have 14 million images, in many archives
MAX_RATIO = 200  # of all sizes to that of the archive: picture files are compressed already, and blank ones are few
SMALL_ARCHIVE = 2**21  # bytes that the ratio counts at least, for a few blank pictures
MAX_DESCRIPTION = 2**20  # bytes of a header of a tar that tells of the next one: its long name, and such
TAR_DESCRIPTIONS = (*tarfile.GNU_TYPES[:2], tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
# What the modules for archives raise on damaged bytes.
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError),
)
ZIP_HEADER = struct.Struct(
    "<4s22xHH"
)  # before each member: signature, 22 bytes that the directory repeats, two lengths
ZIP_END = struct.Struct("<4s6xH10x")  # behind the directory: signature and number of entries; then a comment
ZIP_ENCRYPTED, ZIP_UTF8 = 1, 0x800  # flags of a member
ZIP64_ENTRIES = 0xFFFF  # stands there where the number is larger and lies elsewhere


def is_image(name: str) -> bool:
    """Whether a file is an image by its name, and not hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder on the way to it, is hidden or one that macOS adds to archives."""
    return "/." in f"/{name}" or "__MACOSX" in name.split("/")


def is_archive(name: str) -> bool:
    """Whether a file is an archive by its name, be it of a kind that is read here or not."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def list_files(source: Path) -> list[str]:
    """Names of all regular files, relative to the source, `/`-separated, sorted by code point.

    Raises InputError for a source that is missing, and DataError for one that is damaged, and for links, devices and
    files listed twice.
    """
    faults: list[Finding] = []
    if source.is_dir():
        names = _list_folder(source, faults)
    elif _is_zip(source):
        names = _list_zip(source, faults)
    elif source.is_file():
        names = _list_tar(source, faults)
    else:
        raise InputError(f"{source}: expected a folder, zip or tar of images, found nothing there")
    faults += [_find(name, "listed twice") for name, count in Counter(names).items() if count > 1]
    if faults:
        raise DataError(source, faults)
    return sorted(names)


def read_files(source: Path, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the named files once each, in the order in which the source stores them.

    Raises DataError, after all that can be read, for a damaged archive, damaged, encrypted or too large files, and for
    names that are not there.
    """
    wanted = set(names)
    missing = set(wanted)
    faults: list[Finding] = []
    if source.is_dir():
        read = _read_folder(source, sorted(wanted), faults)
    elif _is_zip(source):
        read = _read_zip(source, wanted, faults)
    else:
        read = _read_tar(source, wanted, faults)
    for name, content in read:
        if name in missing:
            missing.remove(name)
            yield name, content
        else:
            faults.append(_find(name, "listed twice"))
    faulty = {fault.file for fault in faults}
    if WHOLE not in faulty:
        faults += [_find(name, "not there") for name in sorted(missing - faulty)]
    if faults:
        raise DataError(source, faults)


def _find(name: str, what: str) -> Finding:
    return Finding("faulty_source", name, what)


def _list_folder(folder: Path, faults: list[Finding]) -> list[str]:
    names = []
    root = folder.resolve()
    for parent, folders, files in os.walk(folder, onerror=_fail):
        inside = Path(parent).relative_to(folder).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        for name in folders + files:
            relative = prefix + name
            mode = os.lstat(f"{parent}/{name}").st_mode  # to make a Path of each takes four times as long
            if stat.S_ISLNK(mode):
                path = Path(parent, name)
                if not path.resolve().is_relative_to(root):
                    faults.append(_find(relative, "a link that leaves the source"))
                elif path.is_dir():
                    faults.append(_find(relative, "a link to a folder"))
                elif path.is_file():
                    names.append(relative)
                else:
                    faults.append(_find(relative, "neither a file nor a folder"))
            elif stat.S_ISREG(mode):
                names.append(relative)
            elif not stat.S_ISDIR(mode):
                faults.append(_find(relative, "neither a file nor a folder"))
    return names


def _read_folder(folder: Path, names: list[str], faults: list[Finding]) -> Iterator[tuple[str, bytes]]:
    root = folder.resolve()
    lies_inside = functools.cache(lambda path: Path(path).resolve().is_relative_to(root))  # few folders, many files
    for name in names:
        path = f"{folder}/{name}"  # to make a Path takes longer than to read a small picture
        try:
            status = os.lstat(path)
            is_link = stat.S_ISLNK(status.st_mode)
            status = Path(path).stat() if is_link else status
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISREG(status.st_mode) and lies_inside(path if is_link else path.rpartition("/")[0]):
            if too_large := _find_too_large(name, status.st_size):
                faults += too_large
                continue
            with io.FileIO(path) as file:
                yield name, file.readall()


def _fail(error: OSError) -> None:
    raise error


def _is_zip(archive: Path) -> bool:
    """A tar whose last file is a zip ends as a zip does, but it is a tar."""
    if not zipfile.is_zipfile(archive):
        return False
    try:
        _open_tar(archive).close()
    except tarfile.TarError:
        return True
    except InputError:
        pass
    return False


def _list_zip(archive: Path, faults: list[Finding]) -> list[str]:
    names = []
    with _open_archive(faults), zipfile.ZipFile(archive) as opened:
        # A damaged length in the directory swallows the entries that follow.
        if (count := _count_entries(archive)) not in (len(opened.infolist()), ZIP64_ENTRIES):
            told = f"expected the {count} entries that its directory counts, found {len(opened.infolist())}"
            faults.append(_find(WHOLE, told))
        members = opened.infolist()
        _check_extent(archive, len(members), sum(member.file_size for member in members))
        for member in members:
            if stat.S_ISLNK(member.external_attr >> 16):
                faults.append(_find(member.filename, "a link"))
            elif member.flag_bits & ZIP_ENCRYPTED:
                faults.append(_find(member.filename, "encrypted"))
            elif not member.is_dir():
                names.append(member.filename)
    return names


def _read_zip(archive: Path, names: set[str], faults: list[Finding]) -> Iterator[tuple[str, bytes]]:
    with _open_archive(faults), zipfile.ZipFile(archive) as opened, archive.open("rb", buffering=0) as file:
        opened.NameToInfo.clear()
        members = opened.infolist()[::-1]
        opened.filelist.clear()  # each member takes some 600 bytes: none is kept longer than needed
        while members:
            member = members.pop()
            if member.filename in names:
                if too_large := _find_too_large(member.filename, max(member.file_size, member.compress_size)):
                    faults += too_large
                    continue
                plain = (
                    member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
                    and not member.flag_bits & ZIP_ENCRYPTED
                )
                try:
                    content = _read_member(file, member) if plain else opened.read(member)
                except DAMAGE as error:
                    faults.append(_find(member.filename, f"damaged: {error}"))
                else:
                    yield member.filename, content


def _read_member(file: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """As `ZipFile.read`, without the objects that it makes for each: four times as fast for small pictures."""
    name, at = member.orig_filename, member.header_offset
    encoded = name.encode("utf-8" if member.flag_bits & ZIP_UTF8 or name.isascii() else "cp437")
    header = _read_exactly(file, ZIP_HEADER.size + len(encoded), at)
    signature, name_length, extra_length = ZIP_HEADER.unpack_from(header)
    if signature != b"PK\3\4" or name_length != len(encoded) or not header.endswith(encoded):
        raise zipfile.BadZipFile("its header and the directory differ")
    content = _read_exactly(file, member.compress_size, at + len(header) + extra_length)
    if member.compress_type == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.file_size + 1)
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise zipfile.BadZipFile("wrong size or checksum")
    return content


def _read_exactly(file: BinaryIO, size: int, at: int) -> bytes:
    content = os.pread(file.fileno(), size, at)
    if len(content) != size:
        raise EOFError(f"expected {size} bytes, found {len(content)}")
    return content


def _count_entries(archive: Path) -> int:
    with archive.open("rb") as file:
        file.seek(-min(archive.stat().st_size, ZIP_END.size + 0xFFFF), os.SEEK_END)
        end = file.read()
    return int(ZIP_END.unpack_from(end, end.rfind(b"PK\5\6"))[1])


class _Header(tarfile.TarInfo):
    """tarfile reads the content of some headers into memory, whatever size they claim."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        header = super().frombuf(buf, encoding, errors)
        if header.type in TAR_DESCRIPTIONS and header.size > MAX_DESCRIPTION:
            raise InputError(f"expected names of at most {MAX_DESCRIPTION} bytes, found one of {header.size}")
        return header


def _open_tar(archive: Path) -> tarfile.TarFile:
    return tarfile.open(archive, tarinfo=_Header)


def _list_tar(archive: Path, faults: list[Finding]) -> list[str]:
    names = []
    with _open_archive(faults), _open_tar(archive) as opened:
        for member in _walk_tar(archive, opened):
            if member.isfile():
                names.append(member.name)
            elif not member.isdir():
                faults.append(_find(member.name, "neither a file nor a folder"))
    return names


def _read_tar(archive: Path, names: set[str], faults: list[Finding]) -> Iterator[tuple[str, bytes]]:
    with _open_archive(faults), _open_tar(archive) as opened:
        for member in _walk_tar(archive, opened):
            if member.isfile() and member.name in names:
                if too_large := _find_too_large(member.name, member.size):
                    faults += too_large
                    continue
                content = opened.extractfile(member)
                assert content is not None
                yield member.name, content.read()


def _walk_tar(archive: Path, opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members. On its own tarfile ends at a damaged header as at the end, and leaves gzip's checksum unread."""
    for count, member in enumerate(opened, 1):
        _check_extent(archive, count, member.offset_data + member.size)
        member.name = member.name.removeprefix("./")  # which `tar -C folder .` writes before every name
        yield member
    file = opened.fileobj
    assert file is not None
    file.seek(opened.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no header and no end at byte {opened.offset}")
    while file.read(2**20):
        _check_extent(archive, 0, file.tell())


def _check_extent(archive: Path, num_members: int, size: int) -> None:
    """Refuse a bomb before its content is read: from what a zip declares, and from a tar's headers as they come."""
    if num_members > MAX_MEMBERS:
        raise InputError(f"expected at most {MAX_MEMBERS} members, found {num_members}")
    most = MAX_RATIO * max(archive.stat().st_size, SMALL_ARCHIVE)
    if size > most:
        raise InputError(f"expected at most {MAX_RATIO} times its own size, {most} bytes, found {size}")


def _find_too_large(name: str, size: int) -> list[Finding]:
    return [_find(name, f"expected at most {MAX_FILE_BYTES} bytes, found {size}")] if size > MAX_FILE_BYTES else []


@contextmanager
def _open_archive(faults: list[Finding]) -> Iterator[None]:
    """What ends the block is a fault of the archive."""
    try:
        yield
    except InputError as error:
        faults.append(_find(WHOLE, str(error)))
    except DAMAGE as error:
        if isinstance(error, OSError) and error.filename:
            raise  # it says itself what it could not open
        why = str(error).splitlines()[0] if str(error) else type(error).__name__  # tarfile tells of every compression
        faults.append(_find(WHOLE, f"not a sound zip or tar archive: {why}"))
