"""Builders of small inputs that several test files share."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """`encode(image, format, **options)`: the bytes of an image file, by Pillow's writer."""

    def encode(image: Image.Image, format: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        image.save(stream, format, **options)
        return stream.getvalue()

    return encode


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
