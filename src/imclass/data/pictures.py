"""Decoded pixels -> thumbnails to find copies by, and which pictures are of nearly one level."""

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt16

SIDE = 8  # of a thumbnail, in cells
FINE_SIDE = 14  # of what two pictures are compared by
FLATTEST = 2.0  # levels of standard deviation; the flattest of 70,000 images of Fashion-MNIST has 16

Thumbnails = UInt16[np.ndarray, "n cells"]


def shrink(pixels: UInt8[np.ndarray, "n c h w"], side: int = SIDE) -> Thumbnails:
    """Mean level of each cell of a grid of at most `side` x `side`, in whole numbers of 1/256.

    Exact, so that equal pictures have equal thumbnails wherever they are computed.
    """
    count, channels, height, width = pixels.shape
    rows, columns = _cut(height, side).astype(np.float32), _cut(width, side).astype(np.float64)
    # Picture by picture: one large product is computed by threads, which the workers take from each other. Sums over
    # the rows of a cell are whole numbers of far less than 24 bits, which float32 has.
    sums = rows @ pixels.reshape(count * channels, height, width).astype(np.float32) @ columns.T
    sums = sums.reshape(count, channels, len(rows), len(columns)).sum(axis=1).reshape(count, len(rows) * len(columns))
    areas = np.outer(rows.sum(axis=1), columns.sum(axis=1)).ravel()
    return (sums * 256 / (channels * areas)).astype(np.uint16)


def find_flat(pixels: UInt8[np.ndarray, "n c h w"], thumbnails: Thumbnails) -> Bool[np.ndarray, " n"]:
    """Whether the standard deviation of a picture's levels, over all its channels, is below FLATTEST."""
    flat = np.zeros(len(pixels), bool)
    height, width = (_cut(side, SIDE).mean(axis=1) for side in pixels.shape[2:])
    weights = np.outer(height, width).ravel()
    spreads = np.sqrt(np.square(thumbnails - (thumbnails @ weights)[:, None]) @ weights) / 256
    # The means of cells are never spread more than the levels are; 1/64 is more than rounding takes from a mean.
    for at in np.flatnonzero(spreads < FLATTEST + 1 / 64):
        flat[at] = pixels[at].std() < FLATTEST
    return flat


def outline(pixels: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n d"]:
    """Each channel on a grid of at most 14 x 14, without mean and contrast: what scaling and compression leave."""
    count, channels, height, width = pixels.shape
    cells = shrink(pixels.reshape(count * channels, 1, height, width), FINE_SIDE)
    return normalize(cells.reshape(count, channels * cells.shape[1]))


def normalize(vectors: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Rows without mean and of length 1, so that the product of two is their correlation; rows of one level are 0."""
    centred = _flatten(vectors).astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, lengths, out=centred, where=lengths > 0)


def _flatten(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))  # -1 is not defined where there are none


def _cut(length: int, side: int) -> Bool[np.ndarray, "cells length"]:
    """Which of the pixels along a length lie in which of at most `side` cells."""
    cells = min(side, length)
    return np.arange(length) * cells // length == np.arange(cells)[:, None]
