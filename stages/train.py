"""packed set -> model.safetensors of the best epoch, and the history of all."""

import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # this checkout's library, also in `dvc exp run --temp`

from imclass.data.augment import flip_and_shift
from imclass.data.loader import ShuffledBatches, load_batches
from imclass.data.packed import open_packed, read_names
from imclass.device import describe_device, make_deterministic, select_device
from imclass.errors import InputError
from imclass.imports import hash_imports
from imclass.models.classifier import ModelConfig
from imclass.models.inference import compute_logits
from imclass.models.modelfile import save_model
from imclass.models.pretrained import read_pretrained, start_model
from imclass.models.summary import summarise_layers
from imclass.params import Params
from imclass.stage import run
from imclass.training.checkpoint import hold_checkpoints, locate_checkpoints, resume
from imclass.training.fit import DivergedError, fit
from imclass.training.history import write_history
from imclass.training.optimizer import build_optimizer
from imclass.training.review import review
from imclass.training.schedule import build_schedule
from imclass.training.state import start_training
from imclass.training.temperature import calibrate


def train(params: Params, packed: Path, weights: Path, model_file: Path, history_file: Path) -> dict[str, object]:
    make_deterministic(params.threads)
    device = select_device(params.device)
    data = open_packed(packed)
    train_split, val = data.splits["train"], data.splits["val"]
    dataset = ShuffledBatches(
        train_split.images,
        train_split.labels,
        batch_size=params.batch_size,
        augment=partial(flip_and_shift, flip=params.augment.flip, shift=params.augment.shift),
        seed=params.seed,
        device=device,
    )
    recipe = params.describe_training()
    start = read_pretrained(params.model.name, params.model.weights, weights)
    torch.manual_seed(params.seed)
    config = ModelConfig(
        classes=data.classes,
        fit=data.fit,
        mean=params.model.mean or start.mean or data.mean,
        mirror=params.model.mirror,
        network=params.model.describe_network(),
        std=params.model.std or start.std or data.std,
        trained={"data": data.fingerprint, "params": {"epochs": params.epochs, **recipe}, "weights": start.sha256},
    )
    model = start_model(config, start, dataset.sample_images(), frozen=params.model.freeze)
    print(summarise_layers(model))
    model.to(device).to(memory_format=torch.channels_last)  # convolutions are a fifth faster so

    optimizer = build_optimizer(model, lr=params.lr, **params.train.describe_optimizer())
    state = start_training(model, optimizer, num_batches=len(dataset))
    decisive = {
        "code": hash_imports(Path(__file__)),
        "data": data.fingerprint,
        "params": recipe,
        "versions": [torch.__version__, torch.backends.cpu.get_cpu_capability(), device.type],
        "weights": start.sha256,
    }
    with hold_checkpoints(locate_checkpoints(), decisive, epochs=params.epochs) as checkpoints:
        done = resume(state, checkpoints, extends=params.train.schedule == "constant")
        try:
            fit(
                state,
                load_batches(dataset),
                val,
                checkpoints,
                epochs=params.epochs,
                schedule=build_schedule(params.train.schedule, num_steps=params.epochs * len(dataset), peak=params.lr),
                criterion=torch.nn.CrossEntropyLoss(label_smoothing=params.train.label_smoothing),
                seed=params.seed,
            )
        except DivergedError as error:
            names = read_names(data, "train")
            raise InputError(f"{error}\nits images: {', '.join(names[row] for row in error.rows)}") from None
    val_logits = compute_logits(model, val.images).numpy()
    calibrate(model, val_logits, val.labels)
    save_model(model, model_file)
    write_history(state.history, history_file)
    predicted = val_logits.argmax(1)
    print(review(state.history, val.labels, predicted, data.classes, batches_per_epoch=len(dataset)))
    return {"images": len(train_split.labels) * (params.epochs - done), "resumed": done, **describe_device(device)}


if __name__ == "__main__":
    run(train)
