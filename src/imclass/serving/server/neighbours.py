"""Trained model + packed set -> the training images whose features are nearest to those of a picture."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from imclass.data.packed import Packed
from imclass.models.blocks import find_head
from imclass.models.classifier import Classifier

MOST_IMAGES = 4000  # that are compared with, spread evenly over the training images
CHUNK_PIXELS = 2**18  # computed between two pictures, which wait for it
CHUNK_IMAGES = 256


class Neighbour(NamedTuple):
    """A training image, and the cosine of its features with those of the picture."""

    image: UInt8[np.ndarray, "c h w"]
    label: str
    cosine: float


class Neighbours:
    """Training images with their features, which are computed part by part: `compared` of `planned` of `total`."""

    def __init__(self, model: Classifier, packed: Packed) -> None:
        self._model, self._classes = model, packed.classes
        train = packed.splits["train"]
        self.total = len(train.labels)
        self.planned = min(self.total, MOST_IMAGES)
        rows = np.arange(self.planned) * self.total // self.planned
        self._images, self._labels = train.images[rows], train.labels[rows]
        self._features = np.zeros((self.planned, 0), np.float32)
        self.compared = 0

    def compare_more(self) -> None:
        """Compute the features of the next images."""
        _, _, height, width = self._images.shape
        size = max(1, min(CHUNK_IMAGES, CHUNK_PIXELS // (height * width)))
        rows = slice(self.compared, self.compared + size)
        features = compute_features(self._model, self._images[rows])
        if not self.compared:
            self._features = np.zeros((self.planned, features.shape[1]), np.float32)
        self._features[rows] = features
        self.compared = min(self.compared + size, self.planned)

    def find(self, image: UInt8[np.ndarray, "c h w"], count: int) -> list[Neighbour]:
        """The nearest first, among those whose features are computed; equally near ones in the order of the set."""
        if not self.compared:
            return []
        cosines = self._features[: self.compared] @ compute_features(self._model, image[None])[0]
        nearest = np.argsort(-cosines, kind="stable")[:count]
        return [Neighbour(self._images[at], self._classes[self._labels[at]], float(cosines[at])) for at in nearest]


def compute_features(model: Classifier, images: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, "n d"]:
    """What goes into the layer that gives the logits, at length 1; the mean over both views of a model that mirrors."""
    seen: list[Tensor] = []
    hook = model.network.get_submodule(find_head(model.network)).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].flatten(2).mean(2) if inputs[0].ndim == 4 else inputs[0])
    )
    try:
        with torch.inference_mode():
            model(torch.from_numpy(images))
    finally:
        hook.remove()
    return torch.nn.functional.normalize(torch.stack(seen).mean(0), dim=1).numpy()
