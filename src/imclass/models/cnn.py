"""A small convolutional network for images of 8 to 64 pixels, made to learn fast.

After Keller Jordan's cifar10-airbench: its first layer, which is not learnt, whitens patches of the training images.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

OVERLAP = 2  # of neighbouring patches, in pixels
MOST_COMPONENTS = 16  # all that a grey patch of 4x4 pixels has, and the strongest of a colour patch
WHITEN_EPSILON = 1e-2  # added to the variances, so that patches without contrast do not blow up


class Cnn(nn.Module):
    """Whitened patches, then two 3x3 convolutions and a halving for each width, maximum and mean of the maps, Linear.

    There is a patch of 3x3 pixels at each pixel (`stride` 1), or of 4x4 at every second (2), which takes a quarter of
    the computation. Images have at least stride * 2 ** (number of widths) pixels a side.
    """

    def __init__(
        self, channels: int, num_classes: int, *, widths: Sequence[int], dropout: float, stride: int = 2
    ) -> None:
        super().__init__()
        patch = stride + OVERLAP
        num_components = min(channels * patch**2, MOST_COMPONENTS)
        self.stem = nn.Conv2d(channels, 2 * num_components, patch, stride, padding=1, bias=False)
        # Frozen and without a bias, so that no gradient is needed before the blocks: a fifth of all computation.
        self.stem.requires_grad_(False)
        blocks = map(_make_block, [self.stem.out_channels, *widths], widths)
        self.blocks = nn.Sequential(nn.GELU(), *blocks)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * widths[-1], num_classes))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        maps = self.blocks(self.stem(images)).flatten(2)
        return self.head(torch.cat([maps.amax(2), maps.mean(2)], dim=1))

    @torch.no_grad()
    def whiten_stem(self, images: Float[Tensor, "n c h w"]) -> None:
        """Set the stem to the strongest components of patches, scaled to unit variance, and their negatives."""
        patches = nn.functional.unfold(images, self.stem.kernel_size).transpose(1, 2).flatten(0, 1).double()
        variances, components = torch.linalg.eigh(torch.cov(patches.T))  # by rising variance
        scaled = components / (variances + WHITEN_EPSILON).sqrt()
        strongest = scaled[:, -(self.stem.out_channels // 2) :]
        filters = strongest.T.reshape(-1, *self.stem.weight.shape[1:])
        self.stem.weight.copy_(torch.cat([filters, -filters]))


def _make_block(in_width: int, out_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_width, out_width, 3, padding="same", bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(out_width),
        nn.GELU(),
        nn.Conv2d(out_width, out_width, 3, padding="same", bias=False),
        nn.BatchNorm2d(out_width),
        nn.GELU(),
    )
