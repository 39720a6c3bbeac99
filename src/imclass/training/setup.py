"""Params + packed set -> all that a training works on."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from imclass.data.augment import augment, cut_and_rotate
from imclass.data.encoded import EncodedShards
from imclass.data.loader import Batch, ShuffledBatches, load_batches
from imclass.data.mix import build_mix
from imclass.data.packed import Packed
from imclass.device import select_precision
from imclass.models.classifier import ModelConfig
from imclass.models.pretrained import read_pretrained, start_model
from imclass.params import Params
from imclass.training.optimizer import build_optimizer
from imclass.training.state import State, start_training
from imclass.training.step import Learner, weigh_classes


@dataclass(frozen=True)
class Training:
    """The state before the first step, the batches, and how one of them is learnt."""

    state: State
    batches: DataLoader[Batch]
    learn: Learner


def set_up(params: Params, data: Packed, weights: Path, device: torch.device) -> Training:
    """Build model, optimizer and batches; what is random in them follows from the seed.

    `weights` is the folder of files to start from. Raises InputError where the device lacks the precision asked for,
    and where weights to start from are not those of the network.
    """
    recipe = params.train
    precision = select_precision(recipe.precision, device)
    split = data.splits["train"]
    views = params.augment.describe_views()
    cut = None
    if isinstance(split.images, EncodedShards) and views["crop"] < 1:  # the pictures have more than their fitted pixels
        cut = partial(cut_and_rotate, split.images, crop=views["crop"], rotate=views["rotate"])
        views |= {"crop": 1.0, "rotate": 0.0}
    dataset = ShuffledBatches(
        split.images,
        split.labels,
        batch_size=params.batch_size,
        augment=partial(augment, **views),
        seed=params.seed,
        device=device,
        balanced=recipe.balance == "sampler",
        mix=None if params.augment.mix == "none" else build_mix(params.augment.mix, len(data.classes)),
        cut=cut,
    )
    start = read_pretrained(params.model.name, params.model.weights, weights)
    torch.manual_seed(params.seed)
    config = ModelConfig(
        classes=data.classes,
        fit=data.fit,
        mean=params.model.mean or start.mean or data.mean,
        mirror=params.model.mirror,
        network=params.model.describe_network(),
        std=params.model.std or start.std or data.std,
        trained={
            "data": data.fingerprint,
            "params": {"epochs": params.epochs, **params.describe_training()},
            "weights": start.sha256,
        },
    )
    model = start_model(config, start, dataset.sample_images(), frozen=params.model.freeze)
    model.to(device).to(memory_format=torch.channels_last)  # convolutions are a fifth faster so
    class_weights = None
    if recipe.balance == "loss":
        class_weights = weigh_classes(torch.from_numpy(split.labels).bincount(minlength=len(data.classes)))
    criterion = nn.CrossEntropyLoss(class_weights, label_smoothing=recipe.label_smoothing, reduction="sum").to(device)
    state = start_training(
        model,
        build_optimizer(model, lr=params.lr, **recipe.describe_optimizer()),
        num_batches=len(dataset),
        averaged=recipe.ema > 0,
        scaled=precision == torch.float16,
    )
    learn = Learner(
        criterion,
        accumulation=recipe.accumulation,
        clip_norm=recipe.clip_norm,
        ema=recipe.ema,
        precision=precision,
        compiled=torch.compile(model) if recipe.compile else None,
    )
    return Training(state, load_batches(dataset), learn)
