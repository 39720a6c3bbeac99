"""Builders of inputs that several test files share."""

import fcntl
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pictures import encode_picture
from pipeline import Reproduced, ShareFolder, append, commit, copy_checkout, copy_project, replace, run
from playwright.sync_api import Browser, sync_playwright

CHROMIUM_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
]


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(image, format, **options)`: the bytes of an image file, by Pillow's writer."""
    return encode_picture


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if not executable:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def write_source() -> Callable[[Path, dict[str, bytes]], Path]:
    """`write_source(path, {name: content})`: a zip, tar, tar.gz, tar.bz2 or tar.xz by its suffix, else a folder."""

    def write_source(path: Path, files: dict[str, bytes]) -> Path:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
        elif ".tar" in path.suffixes:
            mode: Any = f"w:{path.suffix.removeprefix('.').replace('tar', '')}"
            with tarfile.open(path, mode) as tar:
                for name, content in files.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        else:
            for name, content in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
        return path

    return write_source


@pytest.fixture(scope="session")
def share_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> ShareFolder:
    """`share_folder(name, make)`: a folder that `make(folder)` has filled, once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def share(name: str, make: Callable[[Path], None]) -> Path:
        folder, made = base / name, base / f"{name}.made"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return share


@pytest.fixture(scope="session")
def reproduced(share_folder: ShareFolder) -> Reproduced:
    """A copy of the working tree after its first `dvc repro`, of two epochs; for reading only.

    Its library says where it is when a stage loads it.
    """

    def make(folder: Path) -> None:
        project = folder / "project"
        copy_checkout(project)
        replace(project / "params.yaml", r"^epochs: \d+", "epochs: 2")
        append(project / "src/imclass/stage.py", 'print("library", __file__)')
        commit(project)
        (folder / "output.txt").write_text(run(project, "dvc", "repro"))
        commit(project)

    folder = share_folder("reproduced", make)
    return Reproduced(folder / "project", (folder / "output.txt").read_text())


@pytest.fixture
def project(reproduced: Reproduced, tmp_path: Path) -> Path:
    """A project of one's own that is reproduced already."""
    return copy_project(reproduced.project, tmp_path)
