"""What one would write instead of `imclass predict`: a DataLoader over files, a loop over batches, a CSV.

predict.py runs it as a program of its own: python benchmarks/torch_predict.py MODEL FOLDER OUT WORKERS
"""

import csv
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from imclass.models.modelfile import load_model

BATCH_SIZE = 256


class Images(Dataset[Tensor]):
    """Images one by one, decoded and resized by torchvision."""

    def __init__(self, paths: list[str], channels: int, side: int) -> None:
        self.paths = paths
        self.mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
        self.transform = v2.Compose([v2.Resize(side, antialias=True), v2.CenterCrop(side)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image = decode_image(self.paths[index], self.mode)
        return image if image.shape[1:] == (28, 28) else self.transform(image)


if __name__ == "__main__":
    model_file, folder, out, workers = sys.argv[1:]
    model = load_model(Path(model_file))
    fit, classes = model.config.fit, model.config.classes
    paths = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix in (".png", ".jpg"))
    images = Images(paths, fit["channels"], fit["height"])
    with torch.inference_mode(), Path(out).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label", "probability"])
        done = 0
        for batch in DataLoader(images, BATCH_SIZE, num_workers=int(workers)):
            probabilities, labels = model.predict_probabilities(batch).max(dim=1)
            names = paths[done : done + len(batch)]
            done += len(batch)
            named = [classes[label] for label in labels.tolist()]
            table.writerows(zip(names, named, probabilities.tolist(), strict=True))
