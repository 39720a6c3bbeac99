import gzip
import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from imclass.data.duplicates import RADIUS, find_alike, find_close, find_copies
from imclass.data.pictures import find_flat, normalize, shrink

FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
Images = UInt8[np.ndarray, "n c h w"]


def make_photos(count: int, side: int, seed: int = 0) -> Images:
    """Pictures with large and small structures, each of another scene."""
    chance = np.random.default_rng(seed)
    photos = np.zeros((count, side, side))
    for cells in 3, 5, 9, 17:
        rough = chance.integers(0, 256, (count, cells, cells), np.uint8)
        fine = [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in rough]
        photos += np.stack(fine) / cells
    photos -= photos.min(axis=(1, 2), keepdims=True)
    return (photos * (180 / photos.max(axis=(1, 2), keepdims=True)) + 20).astype(np.uint8)[:, None]


def encode_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg 90": lambda picture: encode_jpeg(picture, 90),
    "jpeg 50": lambda picture: encode_jpeg(picture, 50),
    "half the size": lambda picture: picture.resize((48, 48), Image.Resampling.LANCZOS),
    "twice the size": lambda picture: picture.resize((192, 192), Image.Resampling.BICUBIC),
    "brighter": lambda picture: picture.point(lambda level: min(255, round(level * 1.25))),
    "lighter": lambda picture: picture.point(lambda level: min(255, level + 40)),
    "less contrast": lambda picture: picture.point(lambda level: 64 + level // 2),
    "smoothed": lambda picture: picture.filter(ImageFilter.GaussianBlur(0.7)),
}


def fit(picture: Image.Image) -> UInt8[np.ndarray, "h w"]:
    return np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("copy", COPIES)
def test_copy_of_a_photo_is_found_and_no_other_photo(copy: str) -> None:
    photos = [Image.fromarray(photo[0]) for photo in make_photos(60, 96)]
    copies = [fit(COPIES[copy](photo)) for photo in photos[:30]]
    images = np.stack([*map(fit, photos), *copies])[:, None]
    splits = np.array([0] * 60 + [2] * 30)
    found = {(first, second) for first, second, _ in find_alike(images, np.arange(90), shrink(images), splits)}
    assert found == {(60 + at, at) for at in range(30)}


def test_exactly_the_pairs_of_a_search_among_all_are_found() -> None:
    """10,000 pictures: photos, some again with noise of several strengths; what rounding decides may differ."""
    chance = np.random.default_rng(1)
    photos = make_photos(7_000, 16).astype(np.float64)
    noise = chance.normal(0, 1, (3_000, 1, 16, 16)) * chance.uniform(0, 12, (3_000, 1, 1, 1))
    images = np.concatenate([photos, photos[:3_000] + noise]).clip(0, 255).astype(np.uint8)
    vectors = normalize(shrink(images))
    splits = chance.integers(0, 3, 10_000)
    found = [pair for firsts, seconds in find_close(vectors, splits) for pair in zip(firsts, seconds, strict=True)]
    assert len(found) == len(set(found))
    certain: set[tuple[int, int]] = set()
    possible: set[tuple[int, int]] = set()
    for start in range(0, 10_000, 1000):
        squares = 2 - 2 * vectors[start : start + 1000] @ vectors.T
        later = splits[start : start + 1000, None] > splits
        for pairs, slack in (certain, -1e-4), (possible, 1e-4):
            firsts, seconds = np.nonzero((squares <= (RADIUS + slack) ** 2) & later)
            pairs.update(zip(firsts + start, seconds, strict=True))
    assert certain <= set(found) <= possible
    assert len(certain) > 500


@pytest.mark.skipif(not FASHION.exists(), reason="Fashion-MNIST is not installed")
def test_garments_that_look_alike_are_no_copies() -> None:
    images = np.frombuffer(gzip.decompress(FASHION.read_bytes())[16:], np.uint8).reshape(-1, 1, 28, 28)
    splits = np.arange(10_000) % 2
    found = list(find_alike(images, np.arange(10_000), shrink(images), splits))
    assert len(found) <= 5
    assert not find_flat(images, shrink(images)).any()


def test_copies_are_found_on_the_picture_in_the_earlier_split() -> None:
    photos = make_photos(6, 32)
    images = photos[[0, 1, 2, 3, 0, 4, 0, 1, 5]]
    images[7] = images[7] * 0.9
    rows = [("a", "x", "train"), ("b", "x", "train"), ("c", "x", "train"), ("d", "y", "train"), ("e", "x", "val")]
    rows += [("f", "y", "val"), ("g", "y", "test"), ("h", "x", "test"), ("i", "x", "test")]
    table = pd.DataFrame(rows, columns=["image", "label", "split"])
    found = find_copies(table, images, np.arange(9), shrink(images))
    assert [(one.kind, one.file) for one in found] == [
        ("two_labels", "a"),
        ("same_picture", "a"),
        ("two_labels", "e"),
        ("same_picture", "e"),
        ("two_labels", "g"),
        ("near_duplicate", "b"),
    ]
    assert found[1].detail == "in train, and in test as 'g'"
    assert found[0].detail == "'x', and 'y' as 'g'"
    assert found[-1].detail.endswith("in test as 'h'")
    assert find_copies(table, images, np.arange(1, 6), shrink(images[1:6])) == []


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 1, 1), (1, 8, 8), (3, 5, 28), (3, 300, 9), (1, 9, 400)])
def test_thumbnail_is_the_mean_of_each_cell(channels: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, channels, height, width), np.uint8)
    cells = [
        [[x for x in range(side) if x * min(8, side) // side == cell] for cell in range(min(8, side))]
        for side in (height, width)
    ]
    means = [pixels[:, :, rows][..., columns].mean(axis=(1, 2, 3)) for rows, columns in itertools.product(*cells)]
    np.testing.assert_array_equal(shrink(pixels), np.floor(np.stack(means, axis=1) * 256 + 1e-9))
    assert shrink(pixels[:0]).shape == (0, len(means))


def test_pictures_of_nearly_one_level_are_told_from_others() -> None:
    chance = np.random.default_rng(0)
    grain = 128 + chance.normal(0, 1, (50, 1, 20, 20))
    spot = np.full((50, 1, 20, 20), 255.0)
    spot[:, :, 5:8, 5:8] = 0
    speck = np.full((50, 1, 256, 256), 90.0)  # flat, however far one level is
    speck[np.arange(50), 0, chance.integers(0, 256, 50), chance.integers(0, 256, 50)] = 255
    halves = np.repeat([90.0, 93.0], 8) + np.zeros((50, 1, 16, 1))  # 1.5 levels of standard deviation
    checks = np.tile(np.indices((16, 16)).sum(axis=0) % 2 * 100.0, (50, 1, 1, 1))  # each cell as the next
    for pictures, expected in (grain, True), (spot, False), (speck, True), (halves, True), (checks, False):
        levels = pictures.round().astype(np.uint8)
        assert find_flat(levels, shrink(levels)).tolist() == [expected] * 50
