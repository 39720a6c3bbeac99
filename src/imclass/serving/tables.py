"""Predictions, chunk by chunk -> a table: CSV, JSON lines or Parquet by the suffix of its file."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from imclass.errors import InputError
from imclass.files import write_whole

DIGITS = 6  # of a probability in a text, as in predictions.csv
GROUP_ROWS = 16_384  # of Parquet: rows that are written at once


class Predicted(NamedTuple):
    """Names of images, and the positions and probabilities of each one's likeliest classes, the likeliest first."""

    names: list[str]
    labels: Int64[np.ndarray, "n k"]
    probabilities: Float32[np.ndarray, "n k"]


Write = Callable[[Predicted], None]


@contextmanager
def open_table(path: Path | None, classes: list[str], top: int) -> Iterator[Write]:
    """Yield a function that appends rows to the file, which appears whole or not at all, or to standard output (None).

    Raises InputError for a file of another suffix than .csv, .jsonl and .parquet.
    """
    if path is None:
        yield _start_csv(sys.stdout.buffer, classes, top)
        return
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl", ".parquet"):
        raise InputError(f"{path}: expected a table, a .csv, .jsonl or .parquet file")
    with write_whole(path) as temporary:
        if kind == ".parquet":
            with _open_parquet(temporary, classes, top) as write:
                yield write
        else:
            with temporary.open("wb") as file:
                yield (_start_csv if kind == ".csv" else _start_json)(file, classes, top)


def name_columns(top: int) -> list[str]:
    """image, label, probability; or numbered pairs of the last two."""
    pairs = [("label", "probability")] if top == 1 else [(f"label_{n}", f"probability_{n}") for n in range(1, top + 1)]
    return ["image", *(column for pair in pairs for column in pair)]


def _start_csv(file: IO[bytes], classes: list[str], top: int) -> Write:
    def write_rows(rows: Iterable[Iterable[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        file.write(text.getvalue().encode())
        file.flush()

    def write(chunk: Predicted) -> None:
        columns = [chunk.names]
        for labels, probabilities in _list_ranks(chunk, classes):
            columns += [labels, [f"{probability:.{DIGITS}f}" for probability in probabilities]]
        write_rows(zip(*columns, strict=True))

    write_rows([name_columns(top)])
    return write


def _start_json(file: IO[bytes], classes: list[str], _: int) -> Write:
    def write(chunk: Predicted) -> None:
        ranks = [
            [{"label": label, "probability": round(p, DIGITS)} for label, p in zip(*rank, strict=True)]
            for rank in _list_ranks(chunk, classes)
        ]
        for name, *predictions in zip(chunk.names, *ranks, strict=True):
            line = json.dumps({"image": name, "predictions": predictions}, ensure_ascii=False)
            file.write(f"{line}\n".encode())

    return write


@contextmanager
def _open_parquet(path: Path, classes: list[str], top: int) -> Iterator[Write]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise InputError("--out: Parquet needs pyarrow: pip install pyarrow") from None

    types = {"image": pa.string(), "label": pa.string(), "probability": pa.float32()}
    schema = pa.schema([(column, types[column.partition("_")[0]]) for column in name_columns(top)])
    waiting: list[pa.RecordBatch] = []

    def flush() -> None:
        writer.write_table(pa.Table.from_batches(waiting, schema))
        waiting.clear()

    def write(chunk: Predicted) -> None:
        columns: list[list[str] | list[float]] = [chunk.names]
        for rank in _list_ranks(chunk, classes):
            columns += rank
        waiting.append(pa.record_batch(columns, schema))
        if sum(batch.num_rows for batch in waiting) >= GROUP_ROWS:
            flush()

    with parquet.ParquetWriter(path, schema) as writer:
        yield write
        flush()


def _list_ranks(chunk: Predicted, classes: list[str]) -> Iterator[tuple[list[str], list[float]]]:
    """Labels and probabilities of all likeliest classes, then of all second ones, and so on."""
    for positions, probabilities in zip(chunk.labels.T.tolist(), chunk.probabilities.T.tolist(), strict=True):
        yield [classes[at] for at in positions], probabilities
