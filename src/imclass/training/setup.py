"""Params + packed set -> all that a training works on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from imclass.data.augment import plan_views
from imclass.data.division import Division
from imclass.data.loader import Batch, ShuffledBatches, derive_seed, load_batches
from imclass.data.mix import build_mix
from imclass.data.packed import Packed
from imclass.device import select_precision
from imclass.errors import InputError
from imclass.models.classifier import ModelConfig
from imclass.models.pretrained import read_pretrained, start_model
from imclass.params import Params
from imclass.ranks import ALONE, Ranks
from imclass.training.optimizer import build_optimizer
from imclass.training.parallel import share_gradients
from imclass.training.state import State, start_training
from imclass.training.step import Learner, weigh_classes

DROPOUT = 2**63 - 1  # in derived seeds, where a batch's seeds have the number of the epoch


@dataclass(frozen=True)
class Training:
    """The state before the first step, the batches, and how one of them is learnt."""

    state: State
    batches: DataLoader[Batch]
    learn: Learner


def set_up(params: Params, data: Packed, weights: Path, device: torch.device, ranks: Ranks = ALONE) -> Training:
    """Build model, optimizer and batches; what is random in them follows from the seed.

    `weights` is the folder of files to start from. A batch is shared out among the `ranks`, in at least one part for
    each. Raises InputError where the device lacks the precision asked for, where weights to start from are not those of
    the network, and where there are more ranks than images in a batch.
    """
    recipe = params.train
    division = divide_batches(params.batch_size, recipe.accumulation, ranks)
    precision = select_precision(recipe.precision, device)
    split = data.splits["train"]
    augment, cut = plan_views(split.images, **params.augment.describe_views())
    dataset = ShuffledBatches(
        split.images,
        split.labels,
        batch_size=params.batch_size,
        augment=augment,
        seed=params.seed,
        device=device,
        balanced=recipe.balance == "sampler",
        mix=None if params.augment.mix == "none" else build_mix(params.augment.mix, len(data.classes)),
        division=division,
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
    forward: nn.Module = torch.compile(model) if recipe.compile else model  # type: ignore[assignment]
    learn = Learner(
        criterion,
        division,
        ranks,
        clip_norm=recipe.clip_norm,
        ema=recipe.ema,
        precision=precision,
        forward=forward if ranks.size == 1 else share_gradients(forward, ranks),
        seed=derive_seed(params.seed, DROPOUT),
    )
    return Training(state, load_batches(dataset), learn)


def divide_batches(batch_size: int, accumulation: int, ranks: Ranks) -> Division:
    """As many parts as `accumulation` says, or the next multiple of the number of ranks.

    Raises InputError for more ranks than images in a batch.
    """
    if ranks.size > batch_size:
        raise InputError(f"batch_size: expected at least {ranks.size}, an image for each process, found {batch_size}")
    parts = ranks.size * -(-accumulation // ranks.size)
    return Division(batch_size, min(parts, batch_size), ranks.rank, ranks.size)
