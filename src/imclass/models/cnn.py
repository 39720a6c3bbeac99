"""A small convolutional network for images of 8 to 64 pixels, made to learn fast.

Its first layer is not learnt: it whitens 4x4 patches of the training images, after Keller Jordan's cifar10-airbench.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

PATCH = 4  # side of the whitened patches, in pixels
STEM_STRIDE = 2
WHITEN_EPSILON = 5e-4  # added to the variances, so that patches without contrast do not blow up


class Cnn(nn.Module):
    """Whitened patches, then for each width two 3x3 convolutions at half the size, global maximum, Linear to logits."""

    def __init__(self, channels: int, num_classes: int, *, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        num_patterns = 2 * channels * PATCH**2
        self.stem = nn.Conv2d(channels, num_patterns, PATCH, STEM_STRIDE, padding=1, bias=False)
        self.stem.requires_grad_(False)
        blocks = []
        for in_width, out_width in zip([num_patterns, *widths], widths, strict=False):
            blocks.append(_make_block(in_width, out_width))
        self.blocks = nn.Sequential(nn.GELU(), *blocks)
        self.head = nn.Sequential(
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(widths[-1], num_classes)
        )

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.head(self.blocks(self.stem(images)))

    @torch.no_grad()
    def whiten_stem(self, images: Float[Tensor, "n c h w"]) -> None:
        """Set the stem to the principal components of patches, scaled to unit variance, and their negatives."""
        patches = nn.functional.unfold(images, PATCH).transpose(1, 2).flatten(0, 1).double()
        variances, components = torch.linalg.eigh(torch.cov(patches.T))
        filters = (components / (variances + WHITEN_EPSILON).sqrt()).T.reshape(-1, *self.stem.weight.shape[1:])
        self.stem.weight.copy_(torch.cat([filters, -filters]))


def _make_block(in_width: int, out_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_width, out_width, 3, padding="same", bias=False),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.BatchNorm2d(out_width),
        nn.GELU(),
        nn.Conv2d(out_width, out_width, 3, padding="same", bias=False),
        nn.BatchNorm2d(out_width),
        nn.GELU(),
    )
