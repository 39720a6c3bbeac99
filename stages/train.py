"""packed set -> model.safetensors of the best epoch, and the history of all."""

import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.augment import flip_and_shift
from imclass.data.loader import ShuffledBatches, load_batches
from imclass.data.packed import open_packed
from imclass.device import make_deterministic, select_device
from imclass.models.classifier import ModelConfig, adapt_to_images, build_model
from imclass.models.modelfile import save_model
from imclass.models.summary import summarise_layers
from imclass.params import Params
from imclass.stage import run
from imclass.training.fit import fit
from imclass.training.history import write_history
from imclass.training.optimizer import build_optimizer
from imclass.training.schedule import constant, one_cycle


def train(params: Params, packed: Path, model_file: Path, history_file: Path) -> None:
    make_deterministic(params.threads)
    device = select_device(params.device)
    data = open_packed(packed)
    dataset = ShuffledBatches(
        data.splits["train"].images,
        data.splits["train"].labels,
        batch_size=params.batch_size,
        augment=partial(flip_and_shift, flip=params.augment.flip, shift=params.augment.shift),
        seed=params.seed,
        device=device,
    )

    torch.manual_seed(params.seed)
    name = params.model.name
    model = build_model(
        ModelConfig(
            classes=data.classes,
            fit=data.fit,
            mean=params.model.mean or data.mean,
            mirror=params.model.mirror,
            network={"name": name, **getattr(params.model, name).model_dump()},
            std=params.model.std or data.std,
        )
    )
    adapt_to_images(model, dataset.sample_images())
    print(summarise_layers(model))
    model.to(device).to(memory_format=torch.channels_last)  # convolutions are a fifth faster so

    optimizer = build_optimizer(
        model,
        name=params.train.optimizer,
        lr=params.lr,
        momentum=params.train.momentum,
        weight_decay=params.train.weight_decay,
    )
    shape = {"constant": constant, "one-cycle": one_cycle}[params.train.schedule]
    history = fit(
        model,
        load_batches(dataset),
        data.splits["val"],
        epochs=params.epochs,
        optimizer=optimizer,
        schedule=partial(shape, num_steps=params.epochs * len(dataset), peak=params.lr),
        label_smoothing=params.train.label_smoothing,
        seed=params.seed,
    )
    save_model(model, model_file)
    write_history(history, history_file)
    best = min(history, key=lambda epoch: epoch.val_loss)
    print(f"kept epoch {best.epoch} of {len(history)}: val loss {best.val_loss:.4f}, accuracy {best.val_accuracy:.4f}")


if __name__ == "__main__":
    run(train)
