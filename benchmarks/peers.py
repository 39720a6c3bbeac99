"""What one would use instead of imclass: each a loop that trains on Fashion-MNIST for ever, as its own manual has it.

All train the same network by SGD at the same learning rate and batch size, in float32 and without augmentation, and
bring pixels to floats in their usual way. `step` is called after each step with its number of images.
"""

import logging
import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.data import Fashion
from benchmarks.slices import Step
from imclass.models.classifier import Classifier, ModelConfig, build_model

BATCH_SIZE = 64
LR = 1e-3
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden": [512, 512], "dropout": 0.0},
    "cnn": {"name": "cnn", "widths": [32, 64], "dropout": 0.0},
}

Peer = Callable[[Fashion, str, Step], None]


def list_peers() -> tuple[dict[str, Peer], list[str]]:
    """The peers that can run here, and the packages of those that cannot."""
    peers: dict[str, Peer] = {
        "tensors in a DataLoader": train_from_tensors,
        "torchvision FashionMNIST, ToTensor": train_as_quickstart,
        "the notes' loop (CSV and folder)": train_as_notes,
        "ImageFolder, transforms.v2": train_from_image_folder,
    }
    optional: dict[str, tuple[str, Peer]] = {
        "timm create_loader": ("timm", train_by_timm),
        "fastai DataBlock, Learner.fit": ("fastai", train_by_fastai),
        "Lightning Trainer over FashionMNIST": ("lightning", train_by_lightning),
        "Keras model.fit on arrays": ("keras", train_by_keras),
    }
    peers |= {name: peer for name, (package, peer) in optional.items() if find_spec(package)}
    return peers, [package for package, _ in optional.values() if not find_spec(package)]


def make_classifier(fashion: Fashion, network: str) -> Classifier:
    """The network with imclass's own normalisation in front: uint8 in."""
    packed = fashion.packed
    return build_model(
        ModelConfig(packed.classes, packed.fit, packed.mean, mirror=False, network=NETWORKS[network], std=packed.std)
    )


def make_network(fashion: Fashion, network: str) -> nn.Module:
    """The network alone: float32 in."""
    return make_classifier(fashion, network).network


def train_from_tensors(fashion: Fashion, network: str, step: Step) -> None:
    split = fashion.packed.splits["train"]
    dataset = TensorDataset(torch.from_numpy(split.images[:]), torch.from_numpy(split.labels))
    train_forever(make_classifier(fashion, network), DataLoader(dataset, BATCH_SIZE, shuffle=True), step)


def train_as_quickstart(fashion: Fashion, network: str, step: Step) -> None:
    """PyTorch's quickstart."""
    train_forever(make_network(fashion, network), load_quickstart(fashion), step)


def train_as_notes(fashion: Fashion, network: str, step: Step, *, workers: int = 0) -> None:
    """PyTorch's tutorial on datasets: annotations in a CSV file, one image file per item."""
    from torchvision.transforms import v2

    positions = {label: at for at, label in enumerate(fashion.packed.classes)}
    dataset = CustomImageDataset(
        str(fashion.pngs / "annotations.csv"),
        str(fashion.pngs),
        transform=v2.ToDtype(torch.float32, scale=True),
        target_transform=positions.__getitem__,
    )
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=workers)
    train_forever(make_network(fashion, network), loader, step)


def train_from_image_folder(fashion: Fashion, network: str, step: Step) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.Grayscale(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(fashion.packed.mean, fashion.packed.std),
        ]
    )
    loader = DataLoader(ImageFolder(str(fashion.pngs), transform), batch_size=BATCH_SIZE, shuffle=True)
    train_forever(make_network(fashion, network), loader, step)


def train_by_timm(fashion: Fashion, network: str, step: Step) -> None:
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", root=str(fashion.pngs), input_img_mode="L"),
        input_size=(1, 28, 28),
        batch_size=BATCH_SIZE,
        is_training=True,
        no_aug=True,
        mean=fashion.packed.mean,
        std=fashion.packed.std,
        num_workers=0,
        device=torch.device("cpu"),
        use_prefetcher=False,
        persistent_workers=False,
    )
    train_forever(make_network(fashion, network), loader, step)


def train_by_fastai(fashion: Fashion, network: str, step: Step) -> None:
    from fastai.callback.core import Callback
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import Normalize, get_image_files, parent_label
    from fastai.learner import Learner
    from fastai.optimizer import SGD
    from fastai.vision.core import PILImageBW
    from fastai.vision.data import ImageBlock

    class Report(Callback):
        def after_batch(self) -> None:
            if self.training:
                step(len(self.yb[0]))

    block = DataBlock(
        blocks=(ImageBlock(PILImageBW), CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        batch_tfms=Normalize.from_stats(fashion.packed.mean, fashion.packed.std, cuda=False),
    )
    loaders = block.dataloaders(fashion.pngs, bs=BATCH_SIZE, num_workers=0, device=torch.device("cpu"))
    learner = Learner(loaders, make_network(fashion, network), nn.CrossEntropyLoss(), SGD, cbs=Report())
    with learner.no_logging():
        learner.fit(1_000_000, LR)


def train_by_lightning(fashion: Fashion, network: str, step: Step) -> None:
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = make_network(fashion, network)

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            images, labels = batch
            return nn.functional.cross_entropy(self.network(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=LR)

    class Report(lightning.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            step(BATCH_SIZE)

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        callbacks=[Report()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), load_quickstart(fashion))


def train_by_keras(fashion: Fashion, network: str, step: Step) -> None:
    """Keras 3 on PyTorch. The arrays are floats of mean 0 before it begins."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    from keras import layers

    class Report(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
            step(BATCH_SIZE)

    keras.config.set_image_data_format("channels_first")  # PyTorch's own
    inputs = keras.Input((1, 28, 28))
    if network == "mlp":
        outputs = layers.Flatten()(inputs)
        for _ in range(2):
            outputs = layers.Dense(512, activation="relu")(outputs)
    else:
        maps = layers.ZeroPadding2D(1)(inputs)
        maps = layers.Conv2D(32, 4, 2, use_bias=False, activation="gelu", trainable=False)(maps)
        for width in NETWORKS["cnn"]["widths"]:
            for layer in make_keras_block(layers, width):
                maps = layer(maps)
        outputs = layers.concatenate([layers.GlobalMaxPooling2D()(maps), layers.GlobalAveragePooling2D()(maps)])
    model = keras.Model(inputs, layers.Dense(10)(outputs))
    model.compile(
        keras.optimizers.SGD(LR), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    split = fashion.packed.splits["train"]
    images = (split.images[:].astype(np.float32) / 255 - fashion.packed.mean[0]) / fashion.packed.std[0]
    model.fit(images, split.labels, batch_size=BATCH_SIZE, epochs=1_000_000, verbose=0, callbacks=[Report()])


def make_keras_block(layers: Any, width: int) -> list[Any]:
    """As in imclass.models.cnn."""
    return [
        layers.Conv2D(width, 3, padding="same", use_bias=False),
        layers.MaxPooling2D(2),
        layers.BatchNormalization(axis=1),
        layers.Activation("gelu"),
        layers.Conv2D(width, 3, padding="same", use_bias=False),
        layers.BatchNormalization(axis=1),
        layers.Activation("gelu"),
    ]


def load_quickstart(fashion: Fashion) -> DataLoader[Any]:
    from torchvision.datasets import FashionMNIST
    from torchvision.transforms import ToTensor

    dataset = FashionMNIST(str(fashion.torchvision), train=True, transform=ToTensor())
    return DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)


def train_forever(model: nn.Module, loader: Iterable[Any], step: Step) -> None:
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    model.train()
    while True:
        for images, labels in loader:
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step(len(labels))


class CustomImageDataset(Dataset[tuple[Any, Any]]):
    """The class of PyTorch's tutorial, which looks up each row in the table."""

    def __init__(
        self, annotations_file: str, img_dir: str, transform: Any = None, target_transform: Any = None
    ) -> None:
        self.img_labels = pd.read_csv(annotations_file)
        self.img_dir = img_dir
        self.transform = transform
        self.target_transform = target_transform

    def __len__(self) -> int:
        return len(self.img_labels)

    def __getitem__(self, idx: int) -> tuple[Any, Any]:
        from torchvision.io import decode_image

        image = decode_image(os.path.join(self.img_dir, str(self.img_labels.iloc[idx, 0])))  # noqa: PTH118
        label = self.img_labels.iloc[idx, 1]
        if self.transform:
            image = self.transform(image)
        if self.target_transform:
            label = self.target_transform(label)
        return image, label
