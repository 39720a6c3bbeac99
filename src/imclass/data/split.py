"""Labelled images + their content -> train, val and test.

The place of an image is drawn by its own content (or group) and the seed alone: adding images moves no other, the same
picture is never drawn into two splits, and training with another seed keeps the split. Given splits stay as they are.
"""

import hashlib

import pandas as pd

from imclass.data.annotations import SPLITS
from imclass.errors import InputError, list_problems


def assign_splits(table: pd.DataFrame, *, seed: int, val_fraction: float, test_fraction: float) -> pd.Series:
    """The split of each row of a table with columns split, group and sha256.

    Where splits are given they are kept, and without a given val, `val_fraction` of train becomes val.
    """
    keys = table.group.where(table.group != "", table.sha256)
    draws = keys.map(lambda key: _draw(seed, key))
    if (table.split == "").all():
        split = pd.Series("train", index=table.index)
        split[draws < test_fraction + val_fraction] = "val"
        split[draws < test_fraction] = "test"
        return split
    split = table.split.copy()
    if "val" not in set(split):
        split[(split == "train") & (draws < val_fraction)] = "val"
    return split


def check_splits(table: pd.DataFrame) -> None:
    """Raise InputError for an empty split and for a class that has no image to train on."""
    counts = count_splits(table)
    problems = [f"no image in split {split}" for split in SPLITS if counts[split].sum() == 0]
    problems += [
        f"class {label!r}: no image in split train ({row.sum()} in the others)"
        for label, row in counts.iterrows()
        if row["train"] == 0
    ]
    if problems:
        raise InputError(
            "splits that cannot be used: give other splits, more images, or other data.val_fraction, "
            f"data.test_fraction or data.split_seed\n{list_problems(problems)}"
        )


def find_contradictions(table: pd.DataFrame) -> list[str]:
    """Sentences on pictures (by content) that stand in two splits or under two labels, with the first of them."""
    sentences = []
    for column, what in ("split", "more than one split"), ("label", "more than one label"):
        found = table[table.groupby("sha256")[column].transform("nunique") > 1]
        if len(found):
            first = found[found.sha256 == found.sha256.iloc[0]]
            sentences.append(f"pictures with {what}: {found.sha256.nunique()}, such as {' = '.join(first.image)}")
    return sentences


def count_splits(table: pd.DataFrame) -> pd.DataFrame:
    """Images per class (rows) and split (columns train, val, test)."""
    return pd.crosstab(table.label, table.split).reindex(columns=list(SPLITS), fill_value=0)


def _draw(seed: int, key: str) -> float:
    """A number in [0, 1), uniform over keys."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]) / 2**64
