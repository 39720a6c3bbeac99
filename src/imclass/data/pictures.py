"""Decoded pixels -> thumbnails to find copies by, and which pictures are of nearly one level."""

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt16

SIDE = 8  # of a thumbnail, in cells
FLATTEST = 2.0  # levels of standard deviation; the flattest of 70,000 images of Fashion-MNIST has 16

Thumbnails = UInt16[np.ndarray, "n cells"]


def shrink(pixels: UInt8[np.ndarray, "n c h w"]) -> Thumbnails:
    """Mean level of each cell of a grid of at most 8 x 8, in whole numbers of 1/256.

    Exact, so that equal pictures have equal thumbnails wherever they are computed.
    """
    count, channels, height, width = pixels.shape
    # 16 bits of a level and those of a cell's number of pixels: 24 fit, 53 otherwise.
    exact = np.float32 if channels * height * width <= 2**12 else np.float64
    rows, columns = _cut(height).astype(exact), _cut(width).astype(exact)
    # Picture by picture: one large product is computed by threads, which the workers take from each other.
    sums = rows @ pixels.reshape(count * channels, height, width).astype(exact) @ columns.T
    areas = channels * rows.sum(axis=1)[:, None] * columns.sum(axis=1)
    sums = sums.reshape(count, channels, len(rows), len(columns)).sum(axis=1)
    return (sums * 256 / areas).astype(np.uint16).reshape(count, areas.size)


def find_flat(pixels: UInt8[np.ndarray, "n c h w"]) -> Bool[np.ndarray, " n"]:
    """Whether the standard deviation of a picture's levels, over all its channels, is below FLATTEST."""
    flat = np.zeros(len(pixels), bool)
    # A picture whose own levels are spread is nearly always seen to be so by a few of them.
    for at in np.flatnonzero(np.ptp(_flatten(pixels)[:, ::7], axis=1) < 8 * FLATTEST):
        flat[at] = pixels[at].std() < FLATTEST
    return flat


def normalize(vectors: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Rows without mean and of length 1, so that the product of two is their correlation; rows of one level are 0."""
    centred = _flatten(vectors).astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, lengths, out=np.zeros_like(centred), where=lengths > 0)


def _flatten(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))  # -1 is not defined where there are none


def _cut(side: int) -> Bool[np.ndarray, "cells side"]:
    """Which of the pixels of a side lie in which of its cells."""
    cells = min(SIDE, side)
    return np.arange(side) * cells // side == np.arange(cells)[:, None]
