"""Batch -> one step of training: forward, loss, backward, update."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from imclass.data.division import Division
from imclass.data.loader import Targets
from imclass.errors import InputError
from imclass.models.classifier import Classifier
from imclass.ranks import ALONE, Ranks
from imclass.training.parallel import Statistics, add_in_order
from imclass.training.state import State

EMA_WARMUP = 10  # of decay (1 + step) / (10 + step) until `ema` is reached, as TensorFlow's ExponentialMovingAverage


@dataclass(frozen=True)
class Learner:
    """How a batch is learnt.

    `criterion` gives the sum of its images' losses. A batch is computed in the parts of `division`, one after another
    or by several `ranks`; sums over parts are made in the order of the parts, so that their bits do not depend on who
    computed which. With batch norm a part is normalised by its own statistics, and the running ones move once a step,
    by the mean over the parts. Gradients of a larger norm than `clip_norm` are scaled down to it, 0: never. `ema` is
    the decay of the average of the weights. `forward` is the model as PyTorch's compiler or DistributedDataParallel
    wrap it. Dropout is drawn anew from `seed` for each part.
    """

    criterion: nn.Module
    division: Division
    ranks: Ranks = ALONE
    clip_norm: float = 0.0
    ema: float = 0.0
    precision: torch.dtype = torch.float32
    forward: Callable[[Tensor], Tensor] | None = None
    seed: int = 0

    def __call__(self, state: State, images: UInt8[Tensor, "n c h w"], targets: Targets, size: int) -> None:
        """Take one step, and enter its mean loss and its right answers into the state.

        `images` are those of this rank's parts, in their order; the whole batch has `size`.
        """
        state.optimizer.zero_grad()
        if self.division.parts == 1:
            loss, correct = self._learn_part(state, images, targets, size, 0)
        else:
            loss, correct = self._learn_parts(state, images, targets, size)
        if self.clip_norm:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_([p for p in state.model.parameters() if p.requires_grad], self.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average is not None:
            warm_up = (1 + state.num_steps) / (EMA_WARMUP + state.num_steps)
            update_average(state.average, state.model, min(self.ema, warm_up))
        state.losses[state.step] = loss
        state.correct += correct
        state.step += 1

    def _learn_parts(self, state: State, images: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Add the gradients of all parts of a batch of `size` -> its mean loss, and its right answers."""
        sizes = [len(part) for part in self.division.cut(size)]
        own, dealt = self.division.list_own(len(sizes)), self.division.count_dealt(len(sizes))
        own_sizes = [sizes[part] for part in own]
        statistics = Statistics(state.model)
        rows = []
        batches = zip(images.split(own_sizes), targets.split(own_sizes), strict=True)
        for part, (some, their_targets) in zip(own, batches, strict=True):
            if part >= self.ranks.size and part < dealt and not self.ranks.leads:
                state.optimizer.zero_grad()  # the sum so far, to which the leader's next part is added
            statistics.start_part()
            with self._compute_alone(part >= dealt):
                loss, correct = self._learn_part(state, some, their_targets, size, part)
            rows.append(torch.cat([loss[None], correct[None], *statistics.read()]))
        shared, by_all = torch.stack(rows).tensor_split([dealt // self.ranks.size])
        if self.ranks.size > 1 and dealt:
            shared = self.ranks.all_gather(shared).transpose(0, 1).flatten(0, 1)  # in the order of the parts
        in_order = torch.cat([shared, by_all])
        statistics.keep_mean(in_order[:, 2:])
        loss, correct = add_in_order(in_order[:, :2])
        return loss, correct.long()

    def _learn_part(
        self, state: State, images: Tensor, targets: Tensor, size: int, part: int
    ) -> tuple[Float[Tensor, ""], Int64[Tensor, ""]]:
        """Add the gradients of a part of a batch of `size` -> its share of the mean loss, and its right answers."""
        seed_dropout(images.device, self.seed + state.num_steps * (self.division.parts + 1) + part)
        with torch.autocast(images.device.type, self.precision, enabled=self.precision != torch.float32):
            try:
                logits = (state.model if self.forward is None else self.forward)(images)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):  # batch norm's, of an image of a single pixel
                    raise
                keys = "batch_size, train.accumulation, processes"
                raise InputError(f"{keys}: expected parts of at least 2 images, for batch norm, found 1") from None
        loss = self.criterion(logits.float(), targets) / size
        state.scaler.scale(loss).backward()
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        return loss.detach(), (logits.argmax(1) == labels).sum()

    def _compute_alone(self, alone: bool) -> AbstractContextManager[None]:
        """A context in which gradients stay with this rank."""
        if alone and isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return nullcontext()


def seed_dropout(device: torch.device, seed: int) -> None:
    """Seed PyTorch's global generator of a device, from which dropout draws; `seed` below 2 ** 63."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed is for all devices, and takes much longer
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


@torch.no_grad()
def update_average(average: Classifier, model: Classifier, decay: float) -> None:
    """Move the average to the model by 1 - `decay` of the way; batch norm's statistics are averages, and copied."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)


def weigh_classes(counts: Int64[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """Weights of the images of each class, so that all classes have the same say and the mean over images is 1."""
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts), 0.0).float()
