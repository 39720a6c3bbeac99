"""Image files one by one, as one would have them without imclass: decoded and resized by torchvision."""

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2


class ImageFiles(Dataset[Tensor]):
    """Images uint8 C H W with `side` pixels a side; what has that size is not touched."""

    def __init__(self, paths: Sequence[str], channels: int, side: int) -> None:
        self.paths = paths
        self.mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
        self.side = side
        self.transform = v2.Compose([v2.Resize(side, antialias=True), v2.CenterCrop(side)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image = decode_image(self.paths[index], self.mode)
        return image if image.shape[1:] == (self.side, self.side) else self.transform(image)
