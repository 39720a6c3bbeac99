"""Pictures that are another one again, or nearly so.

Copies are searched among thumbnails and confirmed on a finer grid, both without their mean and contrast, so that a
brighter copy is one. Two pictures are alike where the correlation of their outlines is at least MIN_CORRELATION.

The search is exact: where thumbnails correlate by MIN_THUMBNAILS at least, they lie closer than RADIUS, and so do their
projections. Those on the main axes of all thumbnails are sorted into cells as wide as RADIUS, and each picture is
compared with those in its own cell and the cells beside it only.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64, UInt8

from imclass.data.annotations import SPLITS
from imclass.data.encoded import EncodedShards
from imclass.data.findings import Finding
from imclass.data.pictures import FLATTEST, Thumbnails, normalize, outline
from imclass.data.shards import Shards

MIN_CORRELATION = 0.9975  # measured: docs/data.md
MIN_THUMBNAILS = 0.9985
RADIUS = (2 - 2 * MIN_THUMBNAILS) ** 0.5  # between vectors of length 1
REACH = 1.001  # radii, along the axis without cells: what rounding may add
AXES = 5  # more give fewer pictures to compare, and thrice as many cells to look into
PAIRS_AT_ONCE = 100_000  # few enough to stay in the cache of a processor
PIXELS_AT_ONCE = 2**24
ROWS_AT_ONCE = 2**16

Images = UInt8[np.ndarray | Shards | EncodedShards, "all c h w"]


def find_copies(
    table: pd.DataFrame, images: Images, rows: Int64[np.ndarray, " n"], thumbnails: Thumbnails
) -> list[Finding]:
    """Pictures in two splits or under two labels, of a table with columns image, label and split, a row per image.

    Those at `rows` are compared, whose thumbnails are given.

    Across splits the finding is on the copy in the earlier split: train before val, never test.
    """
    groups = _group_equal(images, rows, thumbnails)
    labels, names = table.label.tolist(), table.image.tolist()
    splits = table.split.map(SPLITS.index).to_numpy(np.int64)
    findings = []
    same = set()
    for group in groups:
        highest = max(group, key=lambda at: splits[at])
        first_of = {labels[at]: at for at in reversed(group)}
        for at in group:
            if others := [other for label, other in first_of.items() if label != labels[at]]:
                told = f"{labels[at]!r}, and {labels[others[0]]!r} as {names[others[0]]!r}"
                findings.append(Finding("two_labels", names[at], told))
            if splits[at] < splits[highest]:
                where = f"in {SPLITS[splits[at]]}, and in {SPLITS[splits[highest]]} as {names[highest]!r}"
                findings.append(Finding("same_picture", names[at], where))
                same.add(at)
    nearest: dict[int, tuple[float, int]] = {}
    for later, earlier, correlation in find_alike(images, rows, thumbnails, splits):
        if earlier not in same:
            nearest[earlier] = max(nearest.get(earlier, (0.0, 0)), (correlation, later))
    for at, (correlation, other) in nearest.items():
        where = (
            f"in {SPLITS[splits[at]]}, and nearly ({correlation:.4f}) in {SPLITS[splits[other]]} as {names[other]!r}"
        )
        findings.append(Finding("near_duplicate", names[at], where, weight=correlation))
    return findings


def find_alike(
    images: Images, rows: Int64[np.ndarray, " n"], thumbnails: Thumbnails, splits: Int64[np.ndarray, " all"]
) -> Iterator[tuple[int, int, float]]:
    """Pairs of alike pictures, the first in a later split, with their correlation; none of nearly one level."""
    parts = np.array_split(thumbnails, 1 + len(thumbnails) // ROWS_AT_ONCE)
    spread = np.concatenate([part.std(axis=1) for part in parts]) > 256 * FLATTEST
    spread_rows = rows[spread]
    step = max(1, PIXELS_AT_ONCE // math.prod(images.shape[1:]))
    for first, second in find_close(normalize(thumbnails[spread]), splits[spread_rows]):
        for start in range(0, len(first), step):
            later, earlier = spread_rows[first[start : start + step]], spread_rows[second[start : start + step]]
            read, places = np.unique(np.stack([later, earlier]), return_inverse=True)  # many are in many pairs
            outlines = outline(images[read])[places.reshape(2, -1)]
            correlations = np.einsum("ij,ij->i", *outlines)
            for at in np.flatnonzero(correlations >= MIN_CORRELATION):
                yield int(later[at]), int(earlier[at]), float(correlations[at])


def find_close(
    vectors: Float[np.ndarray, "n d"], splits: Int64[np.ndarray, " n"]
) -> Iterator[tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]]:
    """Positions of all pairs of vectors within RADIUS of each other, the first in a later split than the second."""
    if not len(vectors):
        return
    projected = vectors @ np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1]
    del vectors  # as large as all that follows
    places = projected[:, :AXES].astype(np.float64) / RADIUS
    places -= places.min(axis=0) - 1
    places[:, :-1] = np.floor(places[:, :-1])  # along the last axis there are no cells, but an order
    steps = np.cumprod([1, *np.ceil(places.max(axis=0)[:0:-1] + 2)])[::-1]
    keys = places @ steps
    order = np.argsort(keys, kind="stable")
    keys, projected, splits = keys[order], projected[order], splits[order]
    columns = np.ascontiguousarray(projected[:, : 3 * AXES].T)
    asking = np.flatnonzero(splits > splits.min())
    for beside in product((-1, 0, 1), repeat=places.shape[1] - 1):
        middle = keys[asking] + np.dot(beside, steps[:-1])
        starts, ends = (np.searchsorted(keys, middle + reach) for reach in (-REACH, REACH))
        for first, second in _expand(asking, starts, ends):
            for column in (*columns[AXES:], *columns[:AXES]):
                near = np.flatnonzero(np.abs(column.take(first) - column.take(second)) <= RADIUS)
                first, second = first[near], second[near]
            near = np.square(projected[first] - projected[second]).sum(axis=1) <= RADIUS**2
            near &= splits[first] > splits[second]
            yield order[first[near]], order[second[near]]


def _expand(
    asking: Int64[np.ndarray, " q"], starts: Int64[np.ndarray, " q"], ends: Int64[np.ndarray, " q"]
) -> Iterator[tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]]:
    """(asking, start .. end - 1) of each, in parts of about PAIRS_AT_ONCE."""
    found = np.flatnonzero(ends > starts)
    lengths = (ends - starts)[found]
    parts = np.flatnonzero(np.diff(lengths.cumsum() // PAIRS_AT_ONCE)) + 1
    for part in np.split(found, parts):
        sizes = (ends - starts)[part]
        shift = np.repeat(starts[part] - (sizes.cumsum() - sizes), sizes)
        yield np.repeat(asking[part], sizes), np.arange(len(shift)) + shift


def _group_equal(images: Images, rows: Int64[np.ndarray, " n"], thumbnails: Thumbnails) -> list[list[int]]:
    """Rows of pictures with equal pixels, in groups of two or more."""
    weights = np.random.default_rng(0).integers(0, 2**64, thumbnails.shape[1], np.uint64)
    keys = np.einsum("ij,j->i", thumbnails, weights, dtype=np.uint64)  # without a copy in 64 bits
    _, group_at, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    groups = defaultdict(list)
    for at in rows[sizes[group_at] > 1].tolist():
        groups[hashlib.sha256(np.ascontiguousarray(images[at]).data).digest()].append(at)
    return [group for group in groups.values() if len(group) > 1]
