"""Exported files + image files -> how far their probabilities are from the model's, and how fast they are."""

import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from imclass.data.encoded import EncodedShards
from imclass.data.images import Pixels, decode_image
from imclass.data.packed import Packed, read_names
from imclass.data.shards import Images
from imclass.data.source import read_files
from imclass.errors import InputError
from imclass.export.seal import read_sealed
from imclass.export.session import start_session
from imclass.models.classifier import Classifier
from imclass.models.inference import compute_probabilities

BATCH_PICTURES = 256  # at most, and so many that they have not more than:
BATCH_BYTES = 2**22

Run = Callable[[UInt8[np.ndarray, "n h w c"]], Float[np.ndarray, "n classes"]]


@dataclass(frozen=True)
class Parity:
    """The largest difference of any probability, and how many pictures get another class."""

    largest_difference: float
    changed_decisions: int


@dataclass(frozen=True)
class Trial:
    """Probabilities that a file gave, and the seconds that it took, reading and decoding left out."""

    probabilities: Float[np.ndarray, "n classes"]
    seconds: float

    @property
    def decisions(self) -> Int64[np.ndarray, " n"]:
        """Number of the likeliest class of each picture."""
        return self.probabilities.argmax(axis=1)


def open_onnx(path: Path, *, threads: int) -> Run:
    """The ONNX file, by ONNX Runtime on the CPU.

    Raises InputError where the file is damaged, or keeps weights in other files.
    """
    import onnx

    content = read_sealed(path)
    tensors = onnx.external_data_helper._get_all_tensors(onnx.load_model_from_string(content))
    if outside := [tensor.name for tensor in tensors if onnx.external_data_helper.uses_external_data(tensor)]:
        raise InputError(f"{path}: expected all weights inside, found {outside[0]!r} in another file")
    session = start_session(content, threads=threads, keep_memory=False)
    name = session.get_inputs()[0].name
    return lambda pictures: session.run(None, {name: pictures})[0]


def open_program(path: Path) -> Run:
    """The torch.export program, on the CPU.

    Raises InputError where the file is damaged: PyTorch runs code that a foreign one may hold.
    """
    program = torch.export.load(io.BytesIO(read_sealed(path))).module()

    def run(pictures: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n classes"]:
        with torch.inference_mode():
            return program(torch.from_numpy(pictures)).numpy()

    return run


def read_split_files(source: Path, packed: Packed, split: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of a split: as the packed set keeps them, where it does, else from the source."""
    names, images = read_names(packed, split), packed.splits[split].images
    if isinstance(images, EncodedShards):
        return ((name, images.read_file(row)) for row, name in enumerate(names))
    return read_files(source, names)


def try_on_files(
    runs: Mapping[str, Run], files: Iterable[tuple[str, bytes]], names: Sequence[str], *, background: int
) -> dict[str, Trial]:
    """Give the pictures in (name, content) pairs, at their own sizes, to each of `runs` -> probabilities by `names`.

    `background` lies behind transparent pixels. Raises InputError for files that are gone or no sound pictures.
    """
    row_at = {name: row for row, name in enumerate(names)}
    parts: dict[str, list[Float[np.ndarray, "n classes"]]] = {name: [] for name in runs}
    seconds = dict.fromkeys(runs, 0.0)
    rows: list[int] = []
    for batch, pictures in _read_batches(files, background):
        rows += [row_at[name] for name in batch]
        for name, run in runs.items():
            start = time.perf_counter()
            parts[name].append(run(pictures))
            seconds[name] += time.perf_counter() - start
    order = np.argsort(rows)
    return {name: Trial(np.concatenate(parts[name])[order], seconds[name]) for name in runs}


def try_on_packed(model: Classifier, images: Images) -> Trial:
    """What the model itself says, of images that build has decoded and resized."""
    start = time.perf_counter()
    probabilities = compute_probabilities(model, images)
    return Trial(probabilities, time.perf_counter() - start)


def compare(expected: Trial, found: Trial) -> Parity:
    """Compare probabilities of the same pictures."""
    return Parity(
        largest_difference=float(np.abs(expected.probabilities - found.probabilities).max()),
        changed_decisions=int((expected.decisions != found.decisions).sum()),
    )


def check_parity(parities: dict[str, Parity], *, tolerance: float) -> None:
    """Raise InputError when a file differs from the model by more than `tolerance` in any probability."""
    for name, parity in parities.items():
        if not parity.largest_difference <= tolerance:
            raise InputError(
                f"{name}: expected probabilities within {tolerance:g} of the model's (export.tolerance), "
                f"found a difference of {parity.largest_difference:.3g}; or the image files changed since build"
            )


def _read_batches(
    files: Iterable[tuple[str, bytes]], background: int
) -> Iterator[tuple[list[str], UInt8[np.ndarray, "n h w c"]]]:
    """Pictures that follow each other and have one shape."""
    batch: list[str] = []
    pictures: list[Pixels] = []
    for name, content in files:
        picture = decode_image(name, content, background=background)
        full = len(batch) == BATCH_PICTURES or (len(batch) + 1) * picture.size > BATCH_BYTES
        if batch and (full or picture.shape != pictures[0].shape):
            yield batch, np.stack(pictures).transpose(0, 2, 3, 1)
            batch, pictures = [], []
        batch.append(name)
        pictures.append(picture)
    if batch:
        yield batch, np.stack(pictures).transpose(0, 2, 3, 1)
