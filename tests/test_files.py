import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imclass.errors import InputError
from imclass.files import hold_lock, read_checked_rows, write_checked_rows, write_text, write_whole


def list_tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_file_appears_with_its_folders(tmp_path: Path) -> None:
    with write_whole(tmp_path / "a/b/file.bin") as temporary:
        temporary.write_bytes(b"new")
        assert not (tmp_path / "a/b/file.bin").exists()
    assert (tmp_path / "a/b/file.bin").read_bytes() == b"new"
    assert list_tree(tmp_path) == ["a", "a/b", "a/b/file.bin"]


def test_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with write_whole(tmp_path / "file") as temporary:
        temporary.write_bytes(b"new")
        assert (tmp_path / "file").read_bytes() == b"old"
    assert (tmp_path / "file").read_bytes() == b"new"
    assert list_tree(tmp_path) == ["file"]


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/old").touch()
    with write_whole(tmp_path / "set") as temporary:
        temporary.mkdir()
        (temporary / "new").write_bytes(b"new")
        assert list_tree(tmp_path / "set") == ["old"]
    assert list_tree(tmp_path) == ["set", "set/new"]


@pytest.mark.parametrize("old_is_folder", [False, True])
def test_file_and_folder_replace_each_other_or_nothing_happens(tmp_path: Path, old_is_folder: bool) -> None:
    path = tmp_path / "out"
    if old_is_folder:
        path.mkdir()
        with pytest.raises(IsADirectoryError), write_whole(path) as temporary:
            temporary.write_bytes(b"new")
        assert path.is_dir()
    else:
        path.write_bytes(b"old")
        with write_whole(path) as temporary:
            temporary.mkdir()
        assert path.is_dir()
    assert list_tree(tmp_path) == ["out"]


def write_half_and_fail(path: Path, error: BaseException, *, as_folder: bool) -> None:
    with write_whole(path) as temporary:
        if as_folder:
            temporary.mkdir()
            (temporary / "half").touch()
        else:
            temporary.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("error", [ValueError(), OSError(), KeyboardInterrupt(), SystemExit()])
def test_exception_keeps_what_was_there(tmp_path: Path, error: BaseException, as_folder: bool) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/old").touch()
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(type(error)):
        write_half_and_fail(tmp_path / ("set" if as_folder else "file"), error, as_folder=as_folder)
    assert list_tree(tmp_path) == ["file", "set", "set/old"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_exception_before_anything_is_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="early"), write_whole(tmp_path / "file"):
        raise ValueError("early")
    assert list_tree(tmp_path) == []


def test_everything_is_synced_up_to_the_folder_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr("imclass.files.os.fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with write_whole(tmp_path / "set") as temporary:
        temporary.mkdir()
        (temporary / "file").touch()
    assert synced == [path.stat().st_ino for path in (tmp_path / "set/file", tmp_path / "set", tmp_path)]


@pytest.mark.parametrize("operation", ["fsync", "open"])
def test_failed_sync_is_not_taken_for_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    (tmp_path / "file").write_bytes(b"old")
    writing = write_whole(tmp_path / "file")
    writing.__enter__().write_bytes(b"new")
    monkeypatch.setattr(f"imclass.files.os.{operation}", fail)
    with pytest.raises(OSError, match="Input/output"):
        writing.__exit__(None, None, None)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert list_tree(tmp_path) == ["file"]


@pytest.mark.parametrize("as_folder", [False, True])
def test_error_tells_path_and_free_space(tmp_path: Path, as_folder: bool) -> None:
    with pytest.raises(OSError, match=r"No space left on device \([\d,.]+ MB free\): '.*/out'") as caught:
        write_half_and_fail(tmp_path / "out", OSError(errno.ENOSPC, "No space left on device"), as_folder=as_folder)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match=r"Input/output error: 'other'"):
        write_half_and_fail(tmp_path / "out", OSError(errno.EIO, "Input/output error", "other"), as_folder=as_folder)
    with pytest.raises(OSError, match=r"/out: encoder error"):
        write_half_and_fail(tmp_path / "out", OSError("encoder error"), as_folder=as_folder)


def test_lock_is_waited_for_and_let_go(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys, pathlib, imclass.files as f\nwith f.hold_lock(pathlib.Path(sys.argv[1]), 'a run'): pass"
    with hold_lock(tmp_path, "a run"):
        waiting = subprocess.Popen([sys.executable, "-c", code, tmp_path])
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
    assert waiting.wait(60) == 0
    assert "a run runs in another process: waiting for it" in capfd.readouterr().err


@pytest.mark.parametrize("left_as_folder", [False, True])
def test_what_a_killed_run_left_is_removed(tmp_path: Path, left_as_folder: bool) -> None:
    left = tmp_path / ".out.tmp"
    if left_as_folder:
        left.mkdir()
        (left / "half").touch()
    else:
        left.touch()
    with write_whole(tmp_path / "out") as temporary:
        assert not temporary.exists()
        temporary.write_bytes(b"new")
    assert list_tree(tmp_path) == ["out"]


def test_temporary_path_lies_beside_and_is_ignored_by_git(tmp_path: Path) -> None:
    with write_whole(tmp_path / "model.bin") as temporary:
        assert temporary == tmp_path / ".model.bin.tmp"
        temporary.touch()


def test_text_is_utf_8_with_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "t.csv", "é,1\r\n\n")
    assert (tmp_path / "t.csv").read_bytes() == b"\xc3\xa9,1\r\n\n"


def test_checked_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [["1", 'a,"b"'], ["", "é"]]
    write_checked_rows(tmp_path / "t.csv", ("x", "y"), rows)
    assert read_checked_rows(tmp_path / "t.csv", ("x", "y")) == rows
    sound = (tmp_path / "t.csv").read_text()
    changed = {
        "expected a table with columns x,y,check": ["", "x,y\n1,a\n", sound.replace("x,y", "x,z"), '"', "\0"],
        "damaged since it was written, at line 2": [
            sound.replace("1,", "2,"),
            sound[: sound.index("\n,é")] + "\n",
            sound + "\n",
        ],
        "damaged since it was written, at line 3": [sound.replace("é", "e"), sound[:-2]],
    }
    for why, texts in changed.items():
        for text in texts:
            (tmp_path / "t.csv").write_text(text)
            with pytest.raises(InputError, match=rf"t\.csv: {why}"):
                read_checked_rows(tmp_path / "t.csv", ("x", "y"))
