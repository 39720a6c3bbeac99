"""Sizes that the pictures have in their files <-> sizes.csv: one row per width and height, and how many have them."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from imclass.errors import InputError
from imclass.files import read_checked_rows, write_checked_rows

COLUMNS = ("width", "height", "images")


def write_sizes(path: Path, sizes: Int64[np.ndarray, "n 2"]) -> None:
    """Count pictures by their width and height, in pixels and upright, and write the table, whole or not at all."""
    found, counts = np.unique(sizes, axis=0, return_counts=True)
    write_checked_rows(path, COLUMNS, np.column_stack([found, counts]).tolist())


def read_sizes(path: Path) -> Int64[np.ndarray, "sizes 3"]:
    """Rows of width, height and number of pictures.

    Raises InputError for any other table, and where it has changed since it was written.
    """
    rows = read_checked_rows(path, COLUMNS)
    if not rows:
        raise InputError(f"{path}: expected at least one size, found none")
    return np.array(rows, np.int64)
