import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imclass.data.augment import Draws, change_color, crop_and_rotate, erase_parts, flip_and_shift
from imclass.data.augment import augment as augment_all


def make_images(count: int, *, channels: int = 3, height: int = 5, width: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def draw(seed: int, count: int, kept: Tensor | None = None) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), count, kept)


def augment(images: Tensor, *, flip: bool, shift: int, seed: int = 0) -> Tensor:
    return flip_and_shift(images, flip=flip, shift=shift, draws=draw(seed, len(images)))


def move_pixel_by_pixel(image: Tensor, *, mirrored: bool, down: int, right: int) -> Tensor:
    """The slow way: mirror, then move, with the pixels at the edge repeated."""
    _, height, width = image.shape
    picture = torch.empty_like(image)
    for row in range(height):
        for column in range(width):
            from_row = min(max(row - down, 0), height - 1)
            from_column = min(max(column - right, 0), width - 1)
            picture[:, row, column] = image[:, from_row, width - 1 - from_column if mirrored else from_column]
    return picture


def find_moves(image: Tensor, picture: Tensor, *, flip: bool, shift: int) -> list[tuple[bool, int, int]]:
    """Every (mirrored, down, right) by which the slow way makes `picture` of `image`."""
    return [
        (mirrored, down, right)
        for mirrored in ([False, True] if flip else [False])
        for down in range(-shift, shift + 1)
        for right in range(-shift, shift + 1)
        if torch.equal(move_pixel_by_pixel(image, mirrored=mirrored, down=down, right=right), picture)
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("flip", "shift"), [(True, 0), (False, 1), (True, 2)])
def test_each_image_is_one_move_of_itself(flip: bool, shift: int, channels: int) -> None:
    images = make_images(60, channels=channels)
    pictures = augment(images, flip=flip, shift=shift)
    moves = [find_moves(*pair, flip=flip, shift=shift) for pair in zip(images, pictures, strict=True)]
    assert all(len(found) == 1 for found in moves)
    expected = (2 if flip else 1) * (2 * shift + 1) ** 2
    assert len({found[0] for found in moves}) > expected // 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_batch_equals_a_slow_loop_over_the_same_draws(flip: bool, channels: int) -> None:
    images = make_images(40, channels=channels)
    generator = torch.Generator().manual_seed(3)
    down, right = torch.randint(-2, 3, (2, 40, 1), generator=generator).flatten(1).tolist()
    mirrored = (torch.rand((40, 1), generator=generator) < 0.5).flatten().tolist() if flip else [False] * 40
    slow = [move_pixel_by_pixel(images[at], mirrored=mirrored[at], down=down[at], right=right[at]) for at in range(40)]
    assert torch.equal(augment(images, flip=flip, shift=2, seed=3), torch.stack(slow))


def test_all_channels_move_together() -> None:
    grey = make_images(50, channels=1)
    moved = augment(grey.expand(-1, 3, -1, -1), flip=True, shift=3)
    assert torch.equal(moved[:, :1].expand(-1, 3, -1, -1), moved)


def test_nothing_to_do_is_the_same_images() -> None:
    images = make_images(9)
    assert torch.equal(augment(images, flip=False, shift=0), images)


def test_images_are_not_changed_in_place() -> None:
    images = make_images(9)
    before = images.clone()
    augment(images, flip=True, shift=2)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("flip", "shift"), [(True, 0), (False, 2), (True, 2)])
def test_seed_decides(flip: bool, shift: int) -> None:
    images = make_images(30)
    first = augment(images, flip=flip, shift=shift)
    assert torch.equal(first, augment(images, flip=flip, shift=shift))
    assert not torch.equal(first, augment(images, flip=flip, shift=shift, seed=1))


def test_half_of_the_images_are_mirrored() -> None:
    images = make_images(4_000, channels=1, height=1, width=4)
    mirrored = (augment(images, flip=True, shift=0) == images.flip(3)).flatten(1).all(1).sum().item()
    assert abs(mirrored - 2_000) < 4 * (4_000 / 4) ** 0.5


def test_every_shift_is_as_likely() -> None:
    images = torch.arange(25, dtype=torch.uint8).view(1, 1, 5, 5).expand(9_000, -1, -1, -1)
    centre = augment(images, flip=False, shift=1)[:, 0, 2, 2].tolist()
    counts = [centre.count(level) for level in (6, 7, 8, 11, 12, 13, 16, 17, 18)]
    assert sum(counts) == 9_000
    assert all(abs(count - 1_000) < 4 * 1_000**0.5 for count in counts)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (9, 2)])
def test_shape_and_type_are_kept_even_when_all_is_moved_out(height: int, width: int) -> None:
    images = make_images(20, height=height, width=width)
    moved = augment(images, flip=True, shift=50)
    assert moved.shape == images.shape
    assert moved.dtype == torch.uint8


def test_no_images_are_no_images() -> None:
    assert augment(make_images(0), flip=True, shift=2).shape == (0, 3, 5, 7)


def sample(image: Tensor, row: float, column: float) -> np.ndarray:
    """Bilinear, with the pixels at the edge repeated; positions count from the middle of the first pixel."""
    _, height, width = image.shape
    row, column = min(max(row, 0.0), height - 1.0), min(max(column, 0.0), width - 1.0)
    top, left = math.floor(row), math.floor(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    levels = image.double().numpy()
    upper = levels[:, top, left] * (left + 1 - column) + levels[:, top, right] * (column - left)
    lower = levels[:, bottom, left] * (left + 1 - column) + levels[:, bottom, right] * (column - left)
    return upper * (top + 1 - row) + lower * (row - top)


@pytest.mark.parametrize(("crop", "rotate"), [(0.4, 0.0), (1.0, 30.0), (0.5, 90.0)])
def test_crop_and_rotation_equal_a_slow_loop_over_the_same_draws(crop: float, rotate: float) -> None:
    images = make_images(12, height=6, width=9)
    ours = crop_and_rotate(images, crop=crop, rotate=rotate, draws=draw(4, len(images)))
    draws = draw(4, 12).draw_numbers(4).double()
    slow = torch.empty(images.shape, dtype=torch.float64)
    for at, (area, turn, across, down) in enumerate(draws.T.tolist()):
        side = math.sqrt(crop + (1 - crop) * area)
        angle = math.radians(rotate * (2 * turn - 1))
        middle_row = 3 + (1 - side) * (2 * down - 1) * 3
        middle_column = 4.5 + (1 - side) * (2 * across - 1) * 4.5
        for row in range(6):
            for column in range(9):
                y, x = side * (row + 0.5 - 3), side * (column + 0.5 - 4.5)
                from_row = middle_row + x * math.sin(angle) + y * math.cos(angle)
                from_column = middle_column + x * math.cos(angle) - y * math.sin(angle)
                slow[at, :, row, column] = torch.from_numpy(sample(images[at], from_row - 0.5, from_column - 0.5))
    assert (ours.double() - slow).abs().max() <= 0.51


def test_color_equals_a_slow_loop_over_the_same_draws() -> None:
    images = make_images(20)
    ours = change_color(images, strength=0.4, draws=draw(2, len(images)))
    factors = 1 + 0.4 * (2 * draw(2, 20).draw_numbers(3) - 1)
    for image, picture, (saturation, contrast, brightness) in zip(images, ours, factors.T.tolist(), strict=True):
        levels = image.double()
        grey = 0.299 * levels[0] + 0.587 * levels[1] + 0.114 * levels[2]
        levels = torch.stack([grey + saturation * (channel - grey) for channel in levels])
        mean = levels.mean()
        expected = ((mean + contrast * (levels - mean)) * brightness).clamp(0, 255)
        assert (picture - expected).abs().max() <= 0.51


def test_color_leaves_grey_grey() -> None:
    grey = make_images(9, channels=1)
    ours = change_color(grey.expand(-1, 3, -1, -1), strength=0.5, draws=draw(1, 9))
    alone = change_color(grey, strength=0.5, draws=draw(1, 9))
    assert (ours.int() - alone.int()).abs().max() <= 1


def test_one_rectangle_is_erased_in_the_share_of_images_asked_for() -> None:
    images = make_images(2_000, height=20, width=24)
    ours = erase_parts(images, share=0.3, draws=draw(0, len(images)))
    changed = (ours != images).any(1)
    touched = changed.flatten(1).any(1)
    assert abs(touched.sum().item() - 600) < 4 * (2_000 * 0.3 * 0.7) ** 0.5
    shares = []
    for image, picture, where in zip(images[touched], ours[touched], changed[touched], strict=True):
        rows, columns = where.any(1).nonzero(), where.any(0).nonzero()
        part = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        mean = image.double().mean((1, 2)).round().to(torch.uint8)
        assert torch.equal(picture[part], mean.view(3, 1, 1).expand_as(picture[part]))
        outside = image.clone()
        outside[part] = picture[part]
        assert torch.equal(outside, picture)
        shares.append(picture[part][0].numel() / (20 * 24))
    assert 0.01 < min(shares) < 0.04
    assert 0.25 < max(shares) < 0.36


@pytest.mark.parametrize("seed", [0, 1])
def test_all_views_together_follow_from_the_seed_and_change_nothing_in_place(seed: int) -> None:
    images = make_images(15)
    before = images.clone()
    options = {"flip": True, "shift": 1, "rotate": 10.0, "crop": 0.8, "color": 0.2, "erase": 0.5}
    views = [
        augment_all(images, **options, draws=draw(number, len(images)))  # type: ignore[arg-type]
        for number in (seed, seed, seed + 1)
    ]
    assert torch.equal(images, before)
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    nothing = {"flip": False, "shift": 0, "rotate": 0.0, "crop": 1.0, "color": 0.0, "erase": 0.0}
    assert torch.equal(augment_all(images, **nothing, draws=draw(0, len(images))), images)  # type: ignore[arg-type]


def test_view_of_an_image_does_not_depend_on_which_others_are_there() -> None:
    images = make_images(40, height=9, width=9)
    everything: dict[str, Any] = {"flip": True, "shift": 2, "rotate": 20.0, "crop": 0.5, "color": 0.3, "erase": 0.5}
    kept = torch.tensor([3, 4, 17, 39])
    some = augment_all(images[kept], **everything, draws=draw(5, 40, kept))
    assert torch.equal(some, augment_all(images, **everything, draws=draw(5, 40))[kept])
