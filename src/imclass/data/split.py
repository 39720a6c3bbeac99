"""Labelled images + their content -> train, val and test.

The place of an image is drawn by its own content (or group) and the seed alone: adding images moves no other, the same
picture is never drawn into two splits, and training with another seed keeps the split. Given splits stay as they are.
"""

import hashlib
from collections.abc import Iterable

import pandas as pd

from imclass.data.annotations import SPLITS
from imclass.data.findings import Finding
from imclass.errors import InputError, list_problems

LARGEST_CHANCE = 4.0  # standard deviations
SMALLEST_SHIFT = 0.2  # of the share in train


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


def check_splits(table: pd.DataFrame, classes: Iterable[str] = ()) -> None:
    """Raise InputError for an empty split and for a class (of `classes` too) that has no image to train on."""
    counts = count_splits(table, classes)
    problems = [f"no image in split {split}" for split in SPLITS if counts[split].sum() == 0]
    problems += ["fewer than two classes"] if len(counts) < 2 else []
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


def find_shared_groups(table: pd.DataFrame) -> list[Finding]:
    """Images whose group is in a split after theirs too: those of train before those of val, never those of test."""
    grouped = table[table.group != ""]
    order = grouped.split.map(SPLITS.index)
    last = order.groupby(grouped.group).transform("max")
    return [
        Finding("shared_group", image, f"group {group!r} is in {split} and in {SPLITS[highest]}")
        for image, group, split, at, highest in zip(
            grouped.image, grouped.group, grouped.split, order, last, strict=True
        )
        if at < highest
    ]


def find_imbalance(table: pd.DataFrame, classes: Iterable[str] = (), *, images_per_class: int) -> list[Finding]:
    """Classes under a floor in a split, and those whose share of val or test is not that of train.

    A share differs where chance alone (two proportions, normal approximation) gives such a difference less often than
    once in 15,000 times, and where it is off by a fifth at least.
    """
    counts = count_splits(table, classes)
    findings = [
        Finding("few_images", "", f"class {label!r}: {row[split]} images in {split}")
        for label, row in counts.iterrows()
        for split in SPLITS
        if row[split] < images_per_class
    ]
    totals = counts.sum()
    for split in SPLITS[1:]:
        if not totals.train or not totals[split]:
            continue
        pooled = (counts.train + counts[split]) / (totals.train + totals[split])
        chance = (pooled * (1 - pooled) * (1 / totals.train + 1 / totals[split])) ** 0.5
        shares, usual = counts[split] / totals[split], counts.train / totals.train
        shifted = ((shares - usual).abs() > LARGEST_CHANCE * chance) & ((shares - usual).abs() > SMALLEST_SHIFT * usual)
        findings += [
            Finding(
                "shifted_share", "", f"class {label!r}: {usual[label]:.1%} of train, {shares[label]:.1%} of {split}"
            )
            for label in counts.index[shifted]
        ]
    return findings


def count_splits(table: pd.DataFrame, classes: Iterable[str] = ()) -> pd.DataFrame:
    """Images per class (rows: those of the table and of `classes`) and split (columns train, val, test)."""
    counts = pd.crosstab(table.label, table.split)
    return counts.reindex(index=sorted({*counts.index, *classes}), columns=list(SPLITS), fill_value=0)


def _draw(seed: int, key: str) -> float:
    """A number in [0, 1), uniform over keys."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]) / 2**64
