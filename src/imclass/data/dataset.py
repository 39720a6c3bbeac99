"""Annotations + folder of images -> one image and label per item, as in PyTorch's tutorial on datasets.

For anyone who reads images one by one: own experiments, a look at the data. Training reads the packed set.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from imclass.data.annotations import read_table
from imclass.data.images import Fit, decode_image, fit_image
from imclass.errors import InputError


class CustomImageDataset(Dataset[tuple[Any, Any]]):
    """Images named by an annotations CSV with columns image and label, below `img_dir`.

    An item is a uint8 tensor C H W (C is 1 for grey and 3 for RGB) and the position of its label in `classes`, which
    are the sorted labels of the file; `transform` and `target_transform` are applied to them. Items follow the file.
    `background` (0 to 255) lies behind transparent pixels.
    """

    def __init__(
        self,
        annotations_file: str | Path,
        img_dir: str | Path,
        transform: Callable[[Tensor], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        *,
        background: int = 255,
    ) -> None:
        table = read_table(str(annotations_file), Path(annotations_file).read_bytes())
        self.images = table.image.tolist()
        self.classes = sorted(set(table.label))
        self.labels = [self.classes.index(label) for label in table.label]
        self.img_dir = Path(img_dir)
        self.transform = transform
        self.target_transform = target_transform
        self.background = background

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Raises InputError for a file outside `img_dir` or one that is not a sound image."""
        path = self.img_dir / self.images[index]
        if not path.resolve().is_relative_to(self.img_dir.resolve()):
            raise InputError(f"{self.images[index]}: outside {self.img_dir}")
        pixels = decode_image(self.images[index], path.read_bytes(), background=self.background)
        image: Any = torch.from_numpy(pixels.copy())
        label: Any = self.labels[index]
        if self.transform:
            image = self.transform(image)
        if self.target_transform:
            label = self.target_transform(label)
        return image, label


class FitImage:
    """A transform to the shape of the packed set: uint8 C H W in, the same pixels as `build` makes out."""

    def __init__(self, to: Fit) -> None:
        self.to = to

    def __call__(self, image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c2 h2 w2"]:
        return torch.from_numpy(fit_image(image.numpy(), self.to).copy())


class OneHot:
    """A target transform: position of a label -> float32 vector with 1 there and 0 elsewhere."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, label: int) -> Float[Tensor, " classes"]:
        return torch.zeros(self.num_classes).scatter_(0, torch.tensor(label), 1)
