"""Batch of uint8 images + draws -> another view of the same pictures.

Shapes: n images, c channels, h rows, w columns. All is drawn on the CPU, so that it is the same whatever device holds
the images.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from imclass.data.encoded import EncodedShards
from imclass.data.shards import Images

ERASED_AREA = 0.02, 0.33  # of an image; this and the next are those of Zhong and others, "Random Erasing" (2017)
ERASED_ASPECT = 0.3, 3.3
GREY = 0.299, 0.587, 0.114  # of red, green, blue (ITU-R BT.601)


class Draws:
    """Random numbers for each of `count` images, and of them those for the images at `kept`, or for all.

    What an image is given so does not depend on which others are there.
    """

    def __init__(self, generator: torch.Generator, count: int, kept: Int64[Tensor, " n"] | None = None) -> None:
        self._generator = generator
        self._count = count
        self._kept = kept

    def draw_numbers(self, rows: int) -> Float[Tensor, "{rows} n"]:
        """From 0 to 1, several for each image."""
        return self._keep(torch.rand((rows, self._count), generator=self._generator))

    def draw_integers(self, low: int, high: int, rows: int) -> Int64[Tensor, "{rows} n"]:
        """From `low` to below `high`, several for each image."""
        return self._keep(torch.randint(low, high, (rows, self._count), generator=self._generator))

    def _keep(self, drawn: Tensor) -> Tensor:
        return drawn if self._kept is None else drawn[:, self._kept]


def plan_views(
    images: Images, *, crop: float, rotate: float, **others: Any
) -> tuple[Callable[..., UInt8[Tensor, "n c h w"]], Callable[..., UInt8[Tensor, "n c h w"]] | None]:
    """What a loader is given to make views of `images`: `augment`, and how to read them, None: as they are.

    Parts are cut out of encoded pictures as they are read, since those have more than their fitted pixels.
    """
    cut = None
    if isinstance(images, EncodedShards) and crop < 1:
        cut = partial(cut_and_rotate, images, crop=crop, rotate=rotate)
        crop, rotate = 1.0, 0.0
    return partial(augment, crop=crop, rotate=rotate, **others), cut


def augment(
    images: UInt8[Tensor, "n c h w"],
    *,
    flip: bool,
    shift: int,
    rotate: float,
    crop: float,
    color: float,
    erase: float,
    draws: Draws,
) -> UInt8[Tensor, "n c h w"]:
    """All that is asked for, in the order crop and rotate, flip and shift, color, erase."""
    if rotate > 0 or crop < 1:
        images = crop_and_rotate(images, crop=crop, rotate=rotate, draws=draws)
    images = flip_and_shift(images, flip=flip, shift=shift, draws=draws)
    if color > 0:
        images = change_color(images, strength=color, draws=draws)
    if erase > 0:
        images = erase_parts(images, share=erase, draws=draws)
    return images


def flip_and_shift(
    images: UInt8[Tensor, "n c h w"], *, flip: bool, shift: int, draws: Draws
) -> UInt8[Tensor, "n c h w"]:
    """Mirror half of the images left to right (`flip`), and move each by up to `shift` pixels in both directions.

    What a shift uncovers repeats the pixels at the edge. All is one gather.
    """
    if not flip and shift == 0:
        return images
    n, c, height, width = images.shape
    device = images.device
    index = torch.int32 if images.numel() < 2**31 else torch.int64  # half the memory, a quarter of the time
    rows = torch.arange(height, dtype=index, device=device).expand(n, height)
    columns = torch.arange(width, dtype=index, device=device).expand(n, width)
    if shift > 0:
        down, right = draws.draw_integers(-shift, shift + 1, 2)[:, :, None].to(index).to(device)
        rows = (rows - down).clamp_(0, height - 1)
        columns = (columns - right).clamp_(0, width - 1)
    if flip:
        mirrored = draws.draw_numbers(1).view(n, 1).to(device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    within = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, height * width)
    first = torch.arange(n * c, dtype=index, device=device).view(n, c, 1) * (height * width)
    return images.reshape(-1).index_select(0, (first + within).view(-1)).view_as(images)


def crop_and_rotate(
    images: UInt8[Tensor, "n c h w"], *, crop: float, rotate: float, draws: Draws
) -> UInt8[Tensor, "n c h w"]:
    """Cut out a part of each image, `crop` to all of its area, turned by up to `rotate` degrees, and scale it back.

    Parts keep the shape of the image; bilinear, and what lies outside repeats the pixels at the edge.
    """
    return _move_parts(images, _draw_parts(draws, crop=crop, rotate=rotate))


def cut_and_rotate(
    images: EncodedShards, rows: Int64[Tensor, " n"], *, crop: float, rotate: float, draws: Draws
) -> UInt8[Tensor, "n c h w"]:
    """As `crop_and_rotate`, but for what the draws cut out: that is taken from the pictures at their own size.

    It is turned when it has the size of the images, so that beside a turned part its own edge is repeated.
    """
    parts = _draw_parts(draws, crop=crop, rotate=rotate)
    right, below = (1 + parts.right) / 2, (1 + parts.below) / 2  # of the middle, 0..1
    half = parts.side / 2
    edges = torch.stack([right - half, below - half, right + half, below + half], dim=1).clamp(0, 1)
    cut = torch.from_numpy(images.cut(rows.numpy(), edges.double().numpy()))
    if rotate == 0:
        return cut
    still = torch.zeros(len(rows))
    return _move_parts(cut, _Parts(still + 1, parts.angle, still, still))


class _Parts(NamedTuple):
    """Parts of images: side 0..1, angle in radians, and the middle, -1..1 from left to right and from top to bottom."""

    side: Float[Tensor, " n"]
    angle: Float[Tensor, " n"]
    right: Float[Tensor, " n"]
    below: Float[Tensor, " n"]


def _draw_parts(draws: Draws, *, crop: float, rotate: float) -> _Parts:
    area, turn, across, down = draws.draw_numbers(4)
    side = (crop + (1 - crop) * area).sqrt()
    angle = torch.deg2rad(rotate * (2 * turn - 1))
    return _Parts(side, angle, (1 - side) * (2 * across - 1), (1 - side) * (2 * down - 1))


def _move_parts(images: UInt8[Tensor, "n c h w"], parts: _Parts) -> UInt8[Tensor, "n c h w"]:
    n, _, height, width = images.shape
    side, angle, right, below = parts
    # From the coordinates of the result, -1 to 1 along both axes, to those of the image.
    cos, sin = side * angle.cos(), side * angle.sin()
    rows = [cos, -sin * height / width, right, sin * width / height, cos, below]
    transforms = torch.stack(rows, dim=1).view(n, 2, 3).to(images.device)
    grid = functional.affine_grid(transforms, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return _round(moved)


def change_color(images: UInt8[Tensor, "n c h w"], *, strength: float, draws: Draws) -> UInt8[Tensor, "n c h w"]:
    """Multiply the saturation of each image, its contrast and its brightness by 1 - `strength` to 1 + `strength`."""
    factors = 1 + strength * (2 * draws.draw_numbers(3)[:, :, None, None, None] - 1)
    saturation, contrast, brightness = factors.to(images.device)
    levels = images.float()
    if images.shape[1] == len(GREY):
        grey = (levels * torch.tensor(GREY, device=images.device).view(-1, 1, 1)).sum(1, keepdim=True)
        levels = grey + saturation * (levels - grey)
    mean = levels.mean((1, 2, 3), keepdim=True)
    return _round(brightness * (mean + contrast * (levels - mean)))


def erase_parts(images: UInt8[Tensor, "n c h w"], *, share: float, draws: Draws) -> UInt8[Tensor, "n c h w"]:
    """Fill a rectangle in a `share` of the images, 0..1, with the image's mean colour; what lies outside is cut off."""
    n, _, height, width = images.shape
    chosen, area, aspect, down, right = draws.draw_numbers(5)
    low, high = torch.tensor(ERASED_ASPECT).log()
    aspect = (low + (high - low) * aspect).exp()
    area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area) * height * width
    in_rows = _mark((area * aspect).sqrt(), down, height)
    in_columns = _mark((area / aspect).sqrt(), right, width)
    erased = (chosen < share).view(n, 1, 1) & in_rows[:, :, None] & in_columns[:, None, :]
    mean = _round(images.float().mean((2, 3), keepdim=True))
    return torch.where(erased[:, None].to(images.device), mean, images)


def _mark(length: Float[Tensor, " n"], place: Float[Tensor, " n"], size: int) -> Tensor:
    """Which of `size` positions lie within each stretch of a `length`; `place`, 0..1, is where it lies."""
    length = length.clamp(max=size).round()
    start = (place * (size - length + 1)).floor()
    at = torch.arange(size)
    return (start[:, None] <= at) & (at < (start + length)[:, None])


def _round(levels: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    return levels.round().clamp(0, 255).to(torch.uint8)
