"""The way from a picture to the model's shape, as part of the model: what `data.images.fit_image` does, bit for bit.

Pillow resizes in whole numbers: weights of 22 binary digits after the point, rows first and then columns, rounded to
levels in between. A product of float64 matrices holds such sums exactly, on every machine and in every runtime; so the
triangle filter of a side is one matrix (output x input), made from the picture's size, which a graph can compute.
"""

from typing import Any, NamedTuple, no_type_check

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

ONE = 2.0**22  # Pillow's PRECISION_BITS
LUMA = (19595.0, 38470.0, 7471.0)  # ITU-R 601-2 in 1/65536, as Pillow has it
LUMA_ONE = 65536.0


class _Part(NamedTuple):
    """Of one side: the span of the picture (start and length) that becomes `size` pixels from `offset` on."""

    start: Tensor
    length: Tensor
    size: Tensor
    offset: Tensor


class Resize(nn.Module):
    """Pictures of any size, grey or RGB -> the shape of `fit` (a packed set's)."""

    def __init__(self, fit: dict[str, Any]) -> None:
        super().__init__()
        self.channels, self.height, self.width = (fit[key] for key in ("channels", "height", "width"))
        self.fit, self.background = fit["fit"], float(fit["background"])

    def forward(self, pictures: UInt8[Tensor, "n h w c"]) -> UInt8[Tensor, "n c2 h2 w2"]:
        """`c` is 1 or 3, any other fails. What has the shape already passes as it is, and at once."""
        planes = self._convert(pictures).permute(0, 3, 1, 2)
        height, width = (torch.scalar_tensor(side, dtype=torch.float64) for side in planes.shape[2:])
        vertical, horizontal = self._choose_parts(height, width)
        rows, filled_rows = _weigh(vertical, planes.shape[2], self.height)
        columns, filled_columns = _weigh(horizontal, planes.shape[3], self.width)
        fits = (height == self.height) & (width == self.width)
        rows_first = (height > vertical.size) & (height - vertical.size > 2 * (width - horizontal.size))
        levels = _choose(fits, self._keep, self._resize, (planes, rows, columns, rows_first))
        return torch.where(filled_rows[:, None] & filled_columns, levels, self.background).to(torch.uint8)

    def _convert(self, pictures: UInt8[Tensor, "n h w c"]) -> UInt8[Tensor, "n h w c2"]:
        channels = pictures.shape[3]
        # ONNX Runtime checks no channels: an index beyond all, for any number but 1 and 3, makes it refuse them.
        wrong = 9 * ((channels - 1) * (channels - 3)) ** 2
        if self.channels == 3:  # of a grey picture, its only one three times
            return pictures.index_select(3, torch.arange(3).clamp(max=channels - 1) + wrong)
        is_grey = torch.scalar_tensor(channels) == 1
        luma = torch.tensor(LUMA, dtype=torch.float64).index_select(0, torch.arange(channels) + wrong)
        return _round(pictures.double() @ torch.where(is_grey, LUMA_ONE, luma)[:, None] / LUMA_ONE).to(torch.uint8)

    @no_type_check
    def _keep(self, planes, rows, columns, rows_first):  # noqa: ARG002
        # Takes all there is; said so that the shape is known without the picture.
        kept = planes.index_select(2, torch.arange(self.height)).index_select(3, torch.arange(self.width))
        return kept.double()

    @no_type_check
    def _resize(self, planes, rows, columns, rows_first):
        return _choose(
            rows_first,
            lambda planes, rows, columns: _multiply(_multiply(rows, planes), columns.T),
            lambda planes, rows, columns: _multiply(rows, _multiply(planes, columns.T)),
            (planes.double(), rows, columns),
        )

    def _choose_parts(self, height: Tensor, width: Tensor) -> tuple[_Part, _Part]:
        """As Pillow's ImageOps.fit and ImageOps.pad."""
        to_height, to_width = (torch.scalar_tensor(side, dtype=torch.float64) for side in (self.height, self.width))
        zero = torch.zeros_like(height)
        if self.fit == "stretch":
            return _Part(zero, height, to_height, zero), _Part(zero, width, to_width, zero)
        is_wide = width / height > self.width / self.height
        if self.fit == "crop":
            kept_width = torch.where(is_wide, self.width / self.height * height, width)
            kept_height = torch.where(is_wide, height, width / (self.width / self.height))
            return _center(height, kept_height, to_height), _center(width, kept_width, to_width)
        new_height = torch.where(is_wide, (height / width * self.width).round(), to_height)
        new_width = torch.where(is_wide, to_width, (width / height * self.height).round())
        top, left = ((to_height - new_height) / 2).round(), ((to_width - new_width) / 2).round()
        return _Part(zero, height, new_height, top), _Part(zero, width, new_width, left)


def _center(side: Tensor, kept: Tensor, size: Tensor) -> _Part:
    start = (side - kept) * 0.5
    first, last = start.float(), (start + kept).float()  # as Pillow's boxes
    return _Part(first.double(), (last - first).double(), size, torch.zeros_like(side))


def _weigh(part: _Part, side: int | torch.SymInt, to: int) -> tuple[Float[Tensor, "to side"], Tensor]:
    """Weights of a side's pixels in each of the new ones, and which of the new ones have any."""
    scale = part.length / part.size
    reach = scale.clamp(min=1)
    places = torch.arange(to, dtype=torch.float64) - part.offset
    centers = (part.start + (places + 0.5) * scale)[:, None]
    pixels = torch.arange(side, dtype=torch.float64)
    first, last = (centers - reach + 0.5).trunc(), (centers + reach + 0.5).trunc()
    weights = (1 - ((pixels - centers + 0.5) * (1 / reach)).abs()).clamp(min=0)
    filled = (places >= 0) & (places < part.size)
    weights = torch.where((pixels >= first) & (pixels < last) & filled[:, None], weights, 0)
    total = weights.sum(1, keepdim=True)
    return (weights / torch.where(filled[:, None], total, 1) * ONE + 0.5).floor(), filled


# In what a condition chooses from, no check of shapes may run: it keeps a list of them, which a graph cannot.
@no_type_check
def _choose(condition, then, other, operands):
    """As `torch.cond`, which outside of a graph would compile both ways for each size of picture."""
    if torch.compiler.is_exporting():
        return torch.cond(condition, then, other, operands)
    return then(*operands) if condition else other(*operands)


@no_type_check
def _multiply(left, right):
    return _round(left @ right / ONE)


@no_type_check
def _round(levels):
    return (levels + 0.5).floor().clamp(0, 255)
