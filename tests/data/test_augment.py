import pytest
import torch
from torch import Tensor

from imclass.data.augment import flip_and_shift


def make_images(count: int, *, channels: int = 3, height: int = 5, width: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def augment(images: Tensor, *, flip: bool, shift: int, seed: int = 0) -> Tensor:
    return flip_and_shift(images, flip=flip, shift=shift, generator=torch.Generator().manual_seed(seed))


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
