import gzip
import io
import os
import re
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imclass.data.source import MAX_FILE_BYTES, list_files, read_files
from imclass.errors import InputError

WriteSource = Callable[[Path, dict[str, bytes]], Path]
KINDS = ["folder", "a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"]
ARCHIVES = KINDS[1:]
FILES = {
    "cat/b.png": b"b" * 700,
    "cat/a.png": bytes(range(256)) * 3,
    "Dog/é 1.png": b"",
    "annotations.csv": b"image,label\n",
}


def read_all(source: Path) -> dict[str, bytes]:
    return dict(read_files(source, list_files(source)))


def refuse(source: Path, read: Callable[[Path], Any] = list_files) -> str:
    with pytest.raises(InputError) as caught:
        read(source)
    assert str(caught.value).startswith(f"{source}: ")
    return str(caught.value)


def write_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_bytes_are_the_same_from_everywhere(tmp_path: Path, write_source: WriteSource, kind: str) -> None:
    source = write_source(tmp_path / kind, FILES)
    assert list_files(source) == ["Dog/é 1.png", "annotations.csv", "cat/a.png", "cat/b.png"]
    assert read_all(source) == FILES


@pytest.mark.parametrize("kind", KINDS)
def test_only_wanted_files_are_read(tmp_path: Path, write_source: WriteSource, kind: str) -> None:
    source = write_source(tmp_path / kind, FILES)
    assert list(read_files(source, ["cat/a.png"])) == [("cat/a.png", FILES["cat/a.png"])]


@pytest.mark.parametrize("kind", KINDS)
def test_file_that_is_not_there_is_named(tmp_path: Path, write_source: WriteSource, kind: str) -> None:
    source = write_source(tmp_path / kind, FILES)
    message = refuse(source, lambda source: list(read_files(source, ["cat/a.png", "cat/z.png", "cat/y.png"])))
    assert message.endswith("faults\n  'cat/y.png': not there\n  'cat/z.png': not there")


@pytest.mark.parametrize("name", ["nothing", "nothing.zip", "nothing.tar"])
def test_missing_source_is_refused(tmp_path: Path, name: str) -> None:
    assert "found nothing there" in refuse(tmp_path / name)


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"<html>not found</html>", bytes(100), b"\x1f\x8b", b"\x89PNG\r\n\x1a\n"]
)
def test_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    assert "not a sound zip or tar archive" in refuse(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ARCHIVES)
def test_folders_in_an_archive_are_no_files(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in/cat").mkdir(parents=True)
    (tmp_path / "in/cat/a.png").touch()
    if kind == "a.zip":
        with zipfile.ZipFile(tmp_path / kind, "w") as archive:
            archive.write(tmp_path / "in/cat", "cat")
            archive.write(tmp_path / "in/cat/a.png", "cat/a.png")
    else:
        mode: Any = f"w:{kind[6:]}"
        with tarfile.open(tmp_path / kind, mode) as tar:
            tar.add(tmp_path / "in/cat", "cat")
    assert list_files(tmp_path / kind) == ["cat/a.png"]


def test_leading_dot_of_a_tar_is_left_out(tmp_path: Path, write_source: WriteSource) -> None:
    source = write_source(tmp_path / "a.tar", {"./cat/a.png": b"a", "./b.png": b"b"})
    assert read_all(source) == {"cat/a.png": b"a", "b.png": b"b"}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archive_cut_anywhere_is_refused(tmp_path: Path, write_source: WriteSource, kind: str) -> None:
    rng = np.random.default_rng(0)
    content = write_source(tmp_path / kind, {f"cat/{i}.png": rng.bytes(700) for i in range(4)}).read_bytes()
    last = 4 * (512 + 1024) if kind == "a.tar" else len(content) - 1  # what follows in a tar is only zeros
    for length in [*range(0, last, 256), last]:
        (tmp_path / "cut").write_bytes(content[:length])
        assert "not a sound zip or tar archive" in refuse(tmp_path / "cut", read_all)


@pytest.mark.parametrize("kind", [kind for kind in ARCHIVES if kind != "a.tar"])
def test_flipped_bit_is_refused_or_changes_no_byte(tmp_path: Path, write_source: WriteSource, kind: str) -> None:
    rng = np.random.default_rng(0)
    files = {f"cat/{i}.png": rng.bytes(200) for i in range(3)}
    content = write_source(tmp_path / kind, files).read_bytes()
    for bit in rng.choice(8 * len(content), 300, replace=False).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            assert list(read_all(tmp_path / "damaged").values()) == list(files.values()), bit
        except InputError as error:
            assert str(error).startswith(f"{tmp_path / 'damaged'}: ")  # noqa: PT017


def test_flipped_bit_in_a_tar_loses_no_file(tmp_path: Path, write_source: WriteSource) -> None:
    content = write_source(tmp_path / "a.tar", {f"cat/{i}.png": bytes(700) for i in range(3)}).read_bytes()
    for bit in range(8 * (512 + 1024), 8 * (512 + 1024 + 257), 11):  # of the second file's header
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            assert list_files(tmp_path / "damaged") == ["cat/0.png", "cat/1.png", "cat/2.png"], bit
        except InputError as error:
            assert str(error).startswith(f"{tmp_path / 'damaged'}: ")  # noqa: PT017


@pytest.mark.parametrize("field", [28, 30, 32], ids=["name", "extra", "comment"])
def test_zip_entry_swallowed_by_a_damaged_length_is_not_left_out(
    tmp_path: Path, write_source: WriteSource, field: int
) -> None:
    content = bytearray(write_source(tmp_path / "a.zip", {f"cat/{i}.png": b"" for i in range(3)}).read_bytes())
    at = content.index(b"PK\1\2") + field
    struct.pack_into("<H", content, at, struct.unpack_from("<H", content, at)[0] + 46 + len("cat/1.png"))
    (tmp_path / "a.zip").write_bytes(content)
    found = {28: "expected the 3 entries that its directory counts, found 2", 30: "Corrupt extra field"}
    assert found.get(field, found[28]) in refuse(tmp_path / "a.zip")


def test_zip_behind_other_bytes_and_before_a_comment_is_read(tmp_path: Path, write_source: WriteSource) -> None:
    source = write_source(tmp_path / "a.zip", FILES)
    with zipfile.ZipFile(source, "a") as archive:
        archive.comment = b"a comment of " + bytes(40)
    source.write_bytes(b"#!/bin/sh\n" + source.read_bytes())
    assert read_all(source) == FILES


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_method_of_a_zip_is_read(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    assert read_all(tmp_path / "a.zip") == FILES


def test_encrypted_member_is_named(tmp_path: Path, write_source: WriteSource) -> None:
    content = bytearray(write_source(tmp_path / "a.zip", FILES).read_bytes())
    content[6] |= 1  # the flags in its own header
    content[content.index(b"PK\1\2") + 8] |= 1  # and in the directory
    (tmp_path / "a.zip").write_bytes(content)
    assert refuse(tmp_path / "a.zip").endswith(": 'cat/b.png': encrypted")
    assert "encrypted" in refuse(tmp_path / "a.zip", lambda source: list(read_files(source, ["cat/b.png"])))


def test_zip_with_a_name_that_is_not_the_utf_8_it_claims_is_refused(tmp_path: Path, write_source: WriteSource) -> None:
    content = write_source(tmp_path / "a.zip", {"é.png": b""}).read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace("é".encode(), b"\xff\xff"))
    assert "not a sound zip or tar archive: 'utf-8' codec" in refuse(tmp_path / "a.zip")


def test_link_in_a_zip_is_named(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("cat/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cat/a.png", b"")
        archive.writestr(link, "/etc/passwd")
    assert refuse(tmp_path / "a.zip").endswith(": 'cat/link.png': a link")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_link_or_device_in_a_tar_is_named(tmp_path: Path, kind: bytes) -> None:
    odd = tarfile.TarInfo("cat/odd.png")
    odd.type = kind
    odd.linkname = "cat/a.png"
    source = write_tar(tmp_path / "a.tar", tarfile.TarInfo("cat/a.png"), odd)
    assert refuse(source).endswith(": 'cat/odd.png': neither a file nor a folder")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_member_listed_twice_is_named(tmp_path: Path, kind: str) -> None:
    if kind == "a.zip":
        with zipfile.ZipFile(tmp_path / kind, "w") as archive:
            archive.writestr("cat/a.png", b"one")
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("cat/a.png", b"two")
    else:
        write_tar(tmp_path / kind, tarfile.TarInfo("cat/a.png"), tarfile.TarInfo("cat/a.png"))
    assert refuse(tmp_path / kind).endswith(": 'cat/a.png': listed twice")
    assert "listed twice" in refuse(tmp_path / kind, lambda source: list(read_files(source, ["cat/a.png"])))


def test_every_odd_member_is_told_at_once(tmp_path: Path) -> None:
    links = [tarfile.TarInfo(f"cat/{i}.png") for i in range(25)]
    for link in links:
        link.type = tarfile.SYMTYPE
    message = refuse(write_tar(tmp_path / "a.tar", *links))
    assert message.count("neither a file nor a folder") == 20
    assert message.endswith("\n  and 5 more")


@pytest.mark.parametrize("target", ["outside", "/", ".."])
def test_link_that_leaves_a_folder_is_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "in/cat").mkdir(parents=True)
    (tmp_path / "in/cat/link").symlink_to(tmp_path / target, target_is_directory=True)
    assert refuse(tmp_path / "in").endswith(": 'cat/link': a link that leaves the source")


def test_link_to_a_folder_inside_is_named_but_one_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "in/cat").mkdir(parents=True)
    (tmp_path / "in/cat/a.png").write_bytes(b"a")
    (tmp_path / "in/b.png").symlink_to(tmp_path / "in/cat/a.png")
    assert read_all(tmp_path / "in") == {"b.png": b"a", "cat/a.png": b"a"}
    (tmp_path / "in/dog").symlink_to(tmp_path / "in/cat", target_is_directory=True)
    assert refuse(tmp_path / "in").endswith(": 'dog': a link to a folder")


def test_pipe_and_dangling_link_in_a_folder_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nothing")
    message = refuse(tmp_path)
    assert "'a.png': neither a file nor a folder" in message
    assert "'b.png': neither a file nor a folder" in message


def test_folder_that_cannot_be_listed_is_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse_cat(path: str) -> Any:
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    (tmp_path / "cat").mkdir()
    monkeypatch.setattr(os, "scandir", refuse_cat)
    with pytest.raises(PermissionError, match="cat"):
        list_files(tmp_path)


def test_file_that_cannot_be_opened_keeps_its_own_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "a.tar")

    write_tar(tmp_path / "a.tar", tarfile.TarInfo("cat/a.png"))
    monkeypatch.setattr(tarfile, "open", deny)
    with pytest.raises(PermissionError, match="a.tar"):
        list_files(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", ["folder", "a.zip", "a.tar"])
def test_size_beyond_any_picture_is_refused_before_it_is_read(
    tmp_path: Path, write_source: WriteSource, kind: str
) -> None:
    size = MAX_FILE_BYTES + 1
    source = write_source(tmp_path / kind, {"cat/a.png": b"a"})
    if kind == "a.zip":
        content = bytearray(source.read_bytes())
        struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, size)
        source.write_bytes(content)
    elif kind == "a.tar":
        member = tarfile.TarInfo("cat/a.png")
        member.size = size
        source.write_bytes(member.tobuf())
        os.truncate(source, 2 * 512 + size + 1024)
    else:
        os.truncate(source / "cat/a.png", size)
    assert refuse(source, read_all).endswith(f": 'cat/a.png': expected at most {MAX_FILE_BYTES} bytes, found {size}")


def test_size_that_lies_low_gives_no_more_bytes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/a.png", bytes(10_000_000))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, 10)
    (tmp_path / "a.zip").write_bytes(content)
    tracemalloc.start()
    assert "'cat/a.png': damaged: wrong size or checksum" in refuse(tmp_path / "a.zip", read_all)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(("at", "value"), [(0, b"p"), (26, b"\1"), (30, b"d")], ids=["signature", "length", "name"])
def test_zip_whose_member_is_another_than_its_directory_says_is_refused(
    tmp_path: Path, write_source: WriteSource, at: int, value: bytes
) -> None:
    content = bytearray(write_source(tmp_path / "a.zip", {"cat/a.png": b"", "cat/b.png": b""}).read_bytes())
    content[at : at + 1] = value
    (tmp_path / "a.zip").write_bytes(content)
    told = refuse(tmp_path / "a.zip", read_all)
    assert told.endswith("a.zip: 'cat/a.png': damaged: its header and the directory differ")


def test_zip_whose_member_claims_to_be_packed_in_more_bytes_than_memory_has_is_refused(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("cat/a.png")
    member.extra = struct.pack("<HHQ", 1, 8, 2**62)  # the size in the directory's extra field for large ones
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, b"a")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + 20, 2**32 - 1)
    (tmp_path / "a.zip").write_bytes(content)
    assert refuse(tmp_path / "a.zip", read_all).endswith(f"bytes, found {2**62}")


def test_zip_with_a_member_without_a_name_is_refused(tmp_path: Path, write_source: WriteSource) -> None:
    content = write_source(tmp_path / "a.zip", {"?": b"a"}).read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"?", b"\0"))
    assert ": not a sound zip or tar archive: " in refuse(tmp_path / "a.zip")


def test_stored_member_of_another_size_than_the_directory_says_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cat/a.png", b"abc")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, 2)
    (tmp_path / "a.zip").write_bytes(content)
    assert "'cat/a.png': damaged: wrong size or checksum" in refuse(tmp_path / "a.zip", read_all)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz", "a.tar.xz"])
def test_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, write_source: WriteSource, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("imclass.data.source.SMALL_ARCHIVE", 2**14)
    blank = bytes(2**22)
    source = write_source(tmp_path / kind, {"cat/a.bmp": blank, "cat/b.bmp": blank, "dog/c.bmp": blank, "d.bmp": blank})
    assert re.search(r": expected at most 200 times its own size, \d+ bytes, found \d+$", refuse(source))
    list_files(write_source(tmp_path / f"small.{kind}", {"cat/a.bmp": blank[: 2**20]}))


def test_bomb_behind_the_end_of_a_tar_is_refused(tmp_path: Path, write_source: WriteSource) -> None:
    content = gzip.decompress(write_source(tmp_path / "a.tar.gz", FILES).read_bytes())
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content + bytes(2**29), 1))
    assert "times its own size, " in refuse(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_name_of_a_tar_that_is_a_bomb_is_refused_before_it_is_read(tmp_path: Path, kind: bytes) -> None:
    name = tarfile.TarInfo("name")
    name.type, name.size = kind, 2**20 + 1
    (tmp_path / "a.tar").write_bytes(name.tobuf(tarfile.GNU_FORMAT) + bytes(2**21))
    assert refuse(tmp_path / "a.tar").endswith(": expected names of at most 1048576 bytes, found one of 1048577")


def test_zip_whose_directory_points_outside_of_it_is_refused(tmp_path: Path, write_source: WriteSource) -> None:
    content = bytearray(write_source(tmp_path / "a.zip", FILES).read_bytes())
    for number, at in enumerate(found.start() for found in re.finditer(b"PK\1\2", bytes(content))):
        struct.pack_into("<I", content, at + 42, 2**32 - 2 - number)
    (tmp_path / "a.zip").write_bytes(content)
    assert refuse(tmp_path / "a.zip", read_all).count(": damaged: ") == len(FILES)


def test_zip_whose_members_share_their_bytes_is_refused(tmp_path: Path, write_source: WriteSource) -> None:
    """Declared sizes count, wherever in the archive the bytes lie."""
    source = write_source(tmp_path / "a.zip", {f"cat/{at}.bmp": b"a" for at in range(3)})
    content = bytearray(source.read_bytes())
    at = -1
    while (at := content.find(b"PK\1\2", at + 1)) >= 0:
        struct.pack_into("<I", content, at + 24, 2**28 - 1)
    source.write_bytes(content)
    assert "times its own size, 419430400 bytes, found 805306365" in refuse(source)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_archive_of_too_many_members_is_refused(
    tmp_path: Path, write_source: WriteSource, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("imclass.data.source.MAX_MEMBERS", 3)
    source = write_source(tmp_path / kind, {f"cat/{at}.png": b"a" for at in range(4)})
    assert refuse(source).endswith("expected at most 3 members, found 4")
    list_files(write_source(tmp_path / f"few.{kind}", {f"cat/{at}.png": b"a" for at in range(3)}))


@pytest.mark.parametrize("name", ["../canary", "cat/../../canary", "{folder}/canary", "..\\canary"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_names_that_climb_are_only_names(tmp_path: Path, write_source: WriteSource, kind: str, name: str) -> None:
    (tmp_path / "canary").write_bytes(b"canary")
    (tmp_path / "in").mkdir()
    member = name.format(folder=tmp_path)
    source = write_source(tmp_path / "in" / kind, {member: b"attack", "cat/a.png": b"a"})
    assert sorted(read_all(source).values()) == [b"a", b"attack"]
    assert (tmp_path / "canary").read_bytes() == b"canary"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [kind, "canary", "in"]


@pytest.mark.parametrize("name", ["../canary", "cat/../../canary", "{folder}/canary", "link"])
def test_names_that_climb_read_nothing_outside_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "canary").write_bytes(b"canary")
    (tmp_path / "in/cat").mkdir(parents=True)
    (tmp_path / "in/link").symlink_to(tmp_path / "canary")
    monkeypatch.setattr(io, "FileIO", lambda path: pytest.fail(f"read {path}"))
    wanted = name.format(folder=tmp_path)
    assert refuse(tmp_path / "in", lambda source: list(read_files(source, [wanted]))).endswith(
        f": {wanted!r}: not there"
    )


def test_zip_inside_a_tar_is_one_of_its_files(tmp_path: Path, write_source: WriteSource) -> None:
    inner = write_source(tmp_path / "inner.zip", {"old/x.png": b"x"}).read_bytes()
    source = write_source(tmp_path / "a.tar", {"cat/a.png": b"a", "old.zip": inner})
    assert read_all(source) == {"cat/a.png": b"a", "old.zip": inner}
