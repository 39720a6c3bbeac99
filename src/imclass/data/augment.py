"""Batch of uint8 images + generator -> another view of the same pictures.

Shapes: n images, c channels, h rows, w columns. All draws are made by the generator, on the CPU, so that they are the
same whatever device holds the images.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from imclass.data.encoded import EncodedShards

ERASED_AREA = 0.02, 0.33  # of an image; this and the next are those of Zhong and others, "Random Erasing" (2017)
ERASED_ASPECT = 0.3, 3.3
GREY = 0.299, 0.587, 0.114  # of red, green, blue (ITU-R BT.601)


def augment(
    images: UInt8[Tensor, "n c h w"],
    *,
    flip: bool,
    shift: int,
    rotate: float,
    crop: float,
    color: float,
    erase: float,
    generator: torch.Generator,
) -> UInt8[Tensor, "n c h w"]:
    """All that is asked for, in the order crop and rotate, flip and shift, color, erase."""
    if rotate > 0 or crop < 1:
        images = crop_and_rotate(images, crop=crop, rotate=rotate, generator=generator)
    images = flip_and_shift(images, flip=flip, shift=shift, generator=generator)
    if color > 0:
        images = change_color(images, strength=color, generator=generator)
    if erase > 0:
        images = erase_parts(images, share=erase, generator=generator)
    return images


def flip_and_shift(
    images: UInt8[Tensor, "n c h w"], *, flip: bool, shift: int, generator: torch.Generator
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
        down, right = torch.randint(-shift, shift + 1, (2, n, 1), generator=generator).to(index).to(device)
        rows = (rows - down).clamp_(0, height - 1)
        columns = (columns - right).clamp_(0, width - 1)
    if flip:
        mirrored = torch.rand((n, 1), generator=generator).to(device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    within = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, height * width)
    first = torch.arange(n * c, dtype=index, device=device).view(n, c, 1) * (height * width)
    return images.reshape(-1).index_select(0, (first + within).view(-1)).view_as(images)


def crop_and_rotate(
    images: UInt8[Tensor, "n c h w"], *, crop: float, rotate: float, generator: torch.Generator
) -> UInt8[Tensor, "n c h w"]:
    """Cut out a part of each image, `crop` to all of its area, turned by up to `rotate` degrees, and scale it back.

    Parts keep the shape of the image; bilinear, and what lies outside repeats the pixels at the edge.
    """
    return _move_parts(images, _draw_parts(len(images), crop=crop, rotate=rotate, generator=generator))


def cut_and_rotate(
    images: EncodedShards, rows: Int64[Tensor, " n"], *, crop: float, rotate: float, generator: torch.Generator
) -> UInt8[Tensor, "n c h w"]:
    """As `crop_and_rotate`, but for what the draws cut out: that is taken from the pictures at their own size.

    It is turned when it has the size of the images, so that beside a turned part its own edge is repeated.
    """
    parts = _draw_parts(len(rows), crop=crop, rotate=rotate, generator=generator)
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


def _draw_parts(n: int, *, crop: float, rotate: float, generator: torch.Generator) -> _Parts:
    area, turn, across, down = torch.rand((4, n), generator=generator)
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


def change_color(
    images: UInt8[Tensor, "n c h w"], *, strength: float, generator: torch.Generator
) -> UInt8[Tensor, "n c h w"]:
    """Multiply the saturation of each image, its contrast and its brightness by 1 - `strength` to 1 + `strength`."""
    factors = 1 + strength * (2 * torch.rand((3, len(images), 1, 1, 1), generator=generator) - 1)
    saturation, contrast, brightness = factors.to(images.device)
    levels = images.float()
    if images.shape[1] == len(GREY):
        grey = (levels * torch.tensor(GREY, device=images.device).view(-1, 1, 1)).sum(1, keepdim=True)
        levels = grey + saturation * (levels - grey)
    mean = levels.mean((1, 2, 3), keepdim=True)
    return _round(brightness * (mean + contrast * (levels - mean)))


def erase_parts(
    images: UInt8[Tensor, "n c h w"], *, share: float, generator: torch.Generator
) -> UInt8[Tensor, "n c h w"]:
    """Fill a rectangle in a `share` of the images, 0..1, with the image's mean colour; what lies outside is cut off."""
    n, _, height, width = images.shape
    chosen, area, aspect, down, right = torch.rand((5, n), generator=generator)
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
