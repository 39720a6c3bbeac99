"""Model file + images as a user names them -> a table of the likeliest classes of each."""

import functools
import sys
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from imclass.data.decode import To, decode_chunk
from imclass.data.findings import Finding
from imclass.data.workers import File, choose_workers, process_files
from imclass.errors import InputError, list_problems
from imclass.ranks import Ranks, find_ranks, join_ranks
from imclass.serving.inputs import list_inputs, read_inputs
from imclass.serving.model import Model, open_model
from imclass.serving.tables import Predicted, open_table

BATCH_PIXELS = 2**20  # that a model is given at once


class _Chunk(NamedTuple):
    predicted: Predicted
    unreadable: list[Finding]


def predict_images(model_path: Path, inputs: Sequence[str], out: Path | None, *, top: int, workers: int) -> None:
    """Write the `top` likeliest classes of each image, in the order of the inputs.

    `inputs` are as `serving.inputs.list_inputs` has them, `out` as `serving.tables.open_table`. `workers` processes
    decode and predict, each on one core; 0: as many as there are cores. Several ranks share the images out, and the one
    that leads writes the table.
    Raises InputError for wrong inputs before anything is written, and after all else is written for images that could
    not be read, naming each.
    """
    ranks = find_ranks()
    with join_ranks(ranks, "imclass"):
        _predict(model_path, inputs, out, ranks, top=top, workers=workers)


def _predict(
    model_path: Path, inputs: Sequence[str], out: Path | None, ranks: Ranks, *, top: int, workers: int
) -> None:
    model = _open(model_path)
    if not 1 <= top <= len(model.classes):
        raise InputError(f"--top: expected 1 to {len(model.classes)}, the number of classes, found {top}")
    listed = list_inputs(inputs, sys.stdin.buffer) if ranks.leads else None
    listed = listed if ranks.size == 1 else ranks.broadcast(listed)
    assert listed is not None
    if listed.left_out and ranks.leads:
        print(f"left out {listed.left_out} files that are no images by their names", file=sys.stderr)
    own = listed.share_out(ranks.rank, ranks.size)
    unreadable: list[Finding] = []
    files = ((name, content, None) for name, content in read_inputs(own.files, unreadable))
    work = functools.partial(_predict_chunk, model_path, top)
    chunks = process_files(
        files,
        work,
        lambda name, why: _Chunk(work([], 0).predicted, [Finding("unreadable", name, why)]),
        num_files=own.num_images,
        workers=choose_workers(workers, ranks.on_host),
        most=max(1, BATCH_PIXELS // (model.fit.height * model.fit.width)),
    )
    if not ranks.leads:
        ranks.send([*chunks, _Chunk(work([], 0).predicted, unreadable)])
        return
    others = chain.from_iterable(ranks.receive(rank) for rank in range(1, ranks.size))
    quiet = True if out is None and sys.stdout.isatty() else None  # None: where standard error is no terminal
    with (
        open_table(out, model.classes, top) as write,
        tqdm(desc="predict", total=listed.num_images, unit="img", disable=quiet) as progress,
        closing(chunks),
    ):
        for predicted, faults in chain(chunks, others):
            write(predicted)
            unreadable += faults
            progress.update(len(predicted.names) + len(faults))
    if unreadable:
        told = list_problems([str(fault) for fault in unreadable])
        raise InputError(
            f"{len(unreadable)} of {listed.num_images} images cannot be read, all others are predicted\n{told}"
        )


@functools.cache
def _open(path: Path) -> Model:
    """Once in each process; a forked worker has it from the start. On one core: there is a worker for each."""
    return open_model(path, threads=1)


def _predict_chunk(path: Path, top: int, files: list[File], seconds_per_file: int) -> _Chunk:
    model = _open(path)
    pictures = decode_chunk(To(model.fit, smallest_side=1), files, seconds_per_file)
    probabilities = np.empty((0, len(model.classes)), np.float32)
    if pictures.names:
        probabilities = model.predict(pictures.pixels)
    labels = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    names = [_show(name) for name in pictures.names]
    return _Chunk(
        Predicted(names, labels, np.take_along_axis(probabilities, labels, axis=1)),
        [found for found in pictures.findings if found.kind == "unreadable"],
    )


def _show(name: str) -> str:
    """Bytes of a name that are not UTF-8, which no table can hold, as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
