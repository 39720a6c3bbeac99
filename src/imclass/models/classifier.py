"""uint8 images -> logits: a network with its input convention, assembled from what a model file records."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from imclass.models.cnn import Cnn
from imclass.models.mlp import Mlp
from imclass.models.resnet import ResNet
from imclass.models.zoo import build_zoo_network


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a model again, as plain JSON values.

    `network` holds the name and the options of the network, `fit` the shape of its images and how pictures are brought
    to it, `mean` and `std` one number per channel of pixels in 0..1. `mirror` averages the logits of an image and its
    mirror image outside training. Probabilities are those of logits / `temperature`. `trained` says on what and how the
    weights were trained: the fingerprint of the packed set (data) and the params that decide the result.
    """

    classes: list[str]
    fit: dict[str, Any]
    mean: list[float]
    mirror: bool
    network: dict[str, Any]
    std: list[float]
    temperature: float = 1.0
    trained: dict[str, Any] = field(default_factory=dict)


class Classifier(nn.Module):
    """A network that normalises its own input, so that no two users of it can do so differently."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, network: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        # In levels of 0..255; they follow from the config and are not stored with the weights.
        self.register_buffer("pixel_mean", 255 * torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", 255 * torch.tensor(config.std).view(-1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "Classifier":
        """Training mode, but for frozen parts: their batch norms stand still."""
        super().train(mode)
        for part in self.modules():
            parameters = list(part.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                nn.Module.train(part, False)  # not its own method, since all of this model may be frozen
        return self

    def normalise(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """To mean 0 and standard deviation 1 over the training images."""
        return (images.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std

    def forward(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of a batch."""
        return self.classify(self.normalise(images))

    def classify(self, normalised: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of normalised images."""
        logits = self.network(normalised)
        if self.config.mirror and not self.training:
            logits = (logits + self.network(normalised.flip(3))) / 2
        return logits

    def predict_probabilities(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Softmax of the logits / temperature: each row sums to 1."""
        return nn.functional.softmax(self(images) / self.config.temperature, dim=1)


def build_model(config: ModelConfig) -> Classifier:
    """Assemble a model with fresh weights, drawn from PyTorch's global generator.

    The only place that knows which networks there are; any other name is one of torchvision's. Raises InputError where
    that has no such network, or not for such images.
    """
    options = dict(config.network)
    name = options.pop("name")
    channels, height, width = (config.fit[key] for key in ("channels", "height", "width"))
    num_classes = len(config.classes)
    networks: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: Mlp(channels, height, width, num_classes, **options),
        "cnn": lambda: Cnn(channels, num_classes, **options),
        "resnet": lambda: ResNet(channels, num_classes, **options),
    }
    if name in networks:
        network = networks[name]()
    else:
        network = build_zoo_network(name, channels, height, num_classes, ours=list(networks))
    return Classifier(network, config)


def adapt_to_images(model: Classifier, images: UInt8[Tensor, "n c h w"]) -> None:
    """Set what a network takes from a sample of training images before it learns."""
    if isinstance(model.network, Cnn):
        model.network.whiten_stem(model.normalise(images))
