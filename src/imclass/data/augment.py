"""Batch of uint8 images + generator -> another view of the same pictures.

Shapes: n images, c channels, h rows, w columns.
"""

import torch
from jaxtyping import UInt8
from torch import Tensor


def flip_and_shift(
    images: UInt8[Tensor, "n c h w"], *, flip: bool, shift: int, generator: torch.Generator
) -> UInt8[Tensor, "n c h w"]:
    """Mirror half of the images left to right (`flip`), and move each by up to `shift` pixels in both directions.

    What a shift uncovers repeats the pixels at the edge. All is one gather. The draws are made by `generator`, on the
    CPU, so that they are the same whatever device holds the images.
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
