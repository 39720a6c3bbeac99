"""The residual network of He and others 2015 in its form for small images, such as CIFAR's, of 28 to 64 pixels."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class ResNet(nn.Module):
    """3x3 convolution, then for each width so many blocks of two convolutions, mean of the maps, Linear.

    Each width after the first halves the image. Widths 16, 32, 64 with 3 blocks are the ResNet-20 of the paper; 64,
    128, 256, 512 with 2 are a ResNet-18 whose first layer leaves small images their size.
    """

    def __init__(self, channels: int, num_classes: int, *, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolve(channels, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU())
        layers: list[nn.Module] = []
        before = widths[0]
        for at, width in enumerate(widths):
            for number in range(blocks):
                layers.append(_Block(before, width, stride=2 if at and not number else 1))
                before = width
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(before, num_classes)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, in_width: int, out_width: int, *, stride: int) -> None:
        super().__init__()
        last_norm = nn.BatchNorm2d(out_width)
        # Each block begins as its shortcut (Goyal and others 2017), by which deep ones start to learn at high rates.
        nn.init.zeros_(last_norm.weight)
        self.path = nn.Sequential(
            _convolve(in_width, out_width, 3, stride),
            nn.BatchNorm2d(out_width),
            nn.ReLU(),
            _convolve(out_width, out_width, 3),
            last_norm,
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or in_width != out_width:
            self.shortcut = nn.Sequential(_convolve(in_width, out_width, 1, stride), nn.BatchNorm2d(out_width))

    def forward(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        return nn.functional.relu(self.path(maps) + self.shortcut(maps))


def _convolve(in_width: int, out_width: int, size: int, stride: int = 1) -> nn.Conv2d:
    convolution = nn.Conv2d(in_width, out_width, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
