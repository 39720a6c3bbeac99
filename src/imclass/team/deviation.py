"""Two files or folders of results -> the largest difference of any number in them."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 1024  # rows of an array in memory at once
PICTURES = (16, 40, 30, 3)  # number, height, width and channels of what exported files are tried on
DECIMAL = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


def measure_deviation(one: Path, other: Path) -> float:
    """0 where all bytes or numbers are equal, infinite where more than numbers differs.

    Numbers are those of JSON, of CSV (whole ones count as names), of arrays (npy) and tensors (safetensors), and the
    probabilities that exported models (onnx, pt2) give to the same noise, with equal classes; and those in Markdown. Of
    any other kind bytes are compared.
    """
    if one.is_dir() and other.is_dir():
        names = [sorted(file.relative_to(folder) for file in folder.rglob("*")) for folder in (one, other)]
        if names[0] != names[1]:
            return math.inf
        return max((measure_deviation(one / name, other / name) for name in names[0]), default=0.0)
    if one.is_dir() or other.is_dir():
        return math.inf
    if one.read_bytes() == other.read_bytes():
        return 0.0
    return _measure(_read(one), _read(other))


def _read(path: Path) -> Any:
    match path.suffix:
        case ".json":
            return json.loads(path.read_bytes())
        case ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                return [[_read_cell(cell) for cell in row] for row in csv.reader(file)]
        case ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        case ".safetensors":
            from imclass.tensors import read_tensors

            tensors, record = read_tensors(path)
            return [{name: tensor.double().numpy() for name, tensor in tensors.items()}, record]
        case ".onnx":
            import onnx

            from imclass.export.parity import open_onnx
            from imclass.export.seal import METADATA_KEY

            told = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
            return [open_onnx(path, threads=1)(_draw_pictures()), told.get(METADATA_KEY)]
        case ".pt2":
            import torch

            from imclass.export.parity import open_program
            from imclass.export.seal import METADATA_KEY

            probabilities = open_program(path)(_draw_pictures())  # first: it refuses damage before PyTorch sees it
            extra = {METADATA_KEY: ""}
            torch.export.load(path, extra_files=extra)
            return [probabilities, extra[METADATA_KEY]]
        case ".md":
            return [_read_cell(word.strip("(),;.")) for word in path.read_text("utf-8").split()]
        case _:
            return path.read_bytes()


def _read_cell(cell: str) -> float | str:
    return float(cell) if DECIMAL.fullmatch(cell) and not cell.lstrip("-").isdigit() else cell


def _draw_pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, PICTURES, np.uint8)


def _measure(one: Any, other: Any) -> float:
    match one, other:
        case dict(), dict() if one.keys() == other.keys():
            return max((_measure(one[key], other[key]) for key in one), default=0.0)
        case list(), list() if len(one) == len(other):
            return max((_measure(*pair) for pair in zip(one, other, strict=True)), default=0.0)
        case np.ndarray(), np.ndarray() if one.shape == other.shape and one.dtype == other.dtype:
            pairs = (np.atleast_1d(one), np.atleast_1d(other))
            starts = range(0, len(pairs[0]), BLOCK)
            return max((_measure_block(*(array[at : at + BLOCK] for array in pairs)) for at in starts), default=0.0)
        case bool(), _:  # else a number, to Python
            return 0.0 if one is other else math.inf
        case float() | int(), float() | int():
            return _measure_block(np.array(one), np.array(other))
        case np.ndarray(), _:
            return math.inf
        case _:
            return 0.0 if type(one) is type(other) and one == other else math.inf


def _measure_block(one: np.ndarray, other: np.ndarray) -> float:
    equal = (one == other) | ((one != one) & (other != other))  # not a number, in both
    largest = float(np.abs(np.where(equal, 0, one.astype(float) - other.astype(float))).max(initial=0.0))
    return math.inf if math.isnan(largest) else largest
