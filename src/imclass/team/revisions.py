"""Revision or experiment -> its files, read through DVC from cache or remote; the work tree is left as it is."""

import base64
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imclass.errors import InputError

PACKED = Path("data/packed")
WORK_TREE = "work tree"


def read_file(path: Path, revision: str | None) -> bytes:
    """A file's content in a revision (commit, branch, tag, experiment); None is the work tree.

    Raises InputError for an unknown revision and for a file that is in neither cache nor remote.
    """
    if revision is None:
        return path.read_bytes()
    with _open_files(revision, path) as files:
        return files.read_bytes(path.as_posix())


def load_pictures(images: Iterable[str], revision: str | None) -> Mapping[str, str]:
    """PNG files of the images as data URLs, by name, from the packed set of a revision."""
    meta = PACKED / "meta.json"
    if revision is None or (meta.exists() and meta.read_bytes() == read_file(meta, revision)):
        return _encode(PACKED, images)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "packed")
        with _open_files(revision, PACKED) as files:
            files.get(PACKED.as_posix(), str(folder), recursive=True)
        return _encode(folder, images)


@contextmanager
def _open_files(revision: str, path: Path) -> Iterator[Any]:
    """A revision's files as DVC sees them, to read `path` from."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    try:
        yield DVCFileSystem(rev=revision)
    except FileNotFoundError:
        raise InputError(
            f"{revision}: its {path} is in neither DVC's cache nor a remote: run `dvc pull`, or the pipeline there"
        ) from None
    except DvcException as error:
        raise InputError(f"{revision}: expected a revision or an experiment of this project: {error}") from None


def _encode(packed: Path, images: Iterable[str]) -> dict[str, str]:
    from PIL import Image

    from imclass.data.packed import open_packed, read_names

    wanted = set(images)
    data = open_packed(packed)
    urls = {}
    for split in data.splits:
        for row, name in enumerate(read_names(data, split)):
            if name in wanted:
                pixels = data.splits[split].images[row].transpose(1, 2, 0)
                stream = io.BytesIO()
                Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
                urls[name] = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return urls
