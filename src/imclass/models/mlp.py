"""The fully connected network of PyTorch's tutorial."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class Mlp(nn.Module):
    """Flatten, then Linear, ReLU and dropout for each hidden size, then Linear to the logits."""

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        num_classes: int,
        *,
        hidden: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        size = channels * height * width
        for hidden_size in hidden:
            layers += [nn.Linear(size, hidden_size), nn.ReLU(), nn.Dropout(dropout)]
            size = hidden_size
        self.layers = nn.Sequential(*layers, nn.Linear(size, num_classes))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.layers(images)
