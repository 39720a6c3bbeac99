"""What one would write instead of `imclass predict`: a DataLoader over files, a loop over batches, a CSV.

predict.py runs it as a program of its own: python benchmarks/torch_predict.py MODEL FOLDER OUT WORKERS
"""

import csv
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))  # where the folder benchmarks is

from benchmarks.image_files import ImageFiles
from imclass.models.modelfile import load_model

BATCH_SIZE = 256


if __name__ == "__main__":
    model_file, folder, out, workers = sys.argv[1:]
    model = load_model(Path(model_file))
    fit, classes = model.config.fit, model.config.classes
    paths = sorted(str(path) for path in Path(folder).rglob("*") if path.suffix in (".png", ".jpg"))
    images = ImageFiles(paths, fit["channels"], fit["height"])
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
