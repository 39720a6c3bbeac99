"""Batch -> one step of training: forward, loss, backward, update."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from imclass.data.loader import Targets
from imclass.models.classifier import Classifier
from imclass.training.state import State

EMA_WARMUP = 10  # of decay (1 + step) / (10 + step) until `ema` is reached, as TensorFlow's ExponentialMovingAverage


@dataclass(frozen=True)
class Learner:
    """How a batch is learnt.

    `criterion` gives the sum of its images' losses. A batch is computed in `accumulation` parts, which take less memory
    and give the same gradient but for networks with batch norm, whose statistics are then those of the parts. Gradients
    of a larger norm than `clip_norm` are scaled down to it, 0: never. `ema` is the decay of the average of the weights.
    `compiled` is the model as PyTorch's compiler made it.
    """

    criterion: nn.Module
    accumulation: int = 1
    clip_norm: float = 0.0
    ema: float = 0.0
    precision: torch.dtype = torch.float32
    compiled: Callable[[Tensor], Tensor] | None = None

    def __call__(
        self,
        state: State,
        images: UInt8[Tensor, "n c h w"],
        targets: Targets,
    ) -> None:
        """Take one step, and enter its mean loss and its right answers into the state."""
        state.optimizer.zero_grad()
        losses = [
            self._learn(state, *part, len(images))
            for part in zip(images.chunk(self.accumulation), targets.chunk(self.accumulation), strict=True)
        ]
        if self.clip_norm:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_([p for p in state.model.parameters() if p.requires_grad], self.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.average is not None:
            warm_up = (1 + state.num_steps) / (EMA_WARMUP + state.num_steps)
            update_average(state.average, state.model, min(self.ema, warm_up))
        state.losses[state.step] = sum(losses)
        state.step += 1

    def _learn(self, state: State, images: Tensor, targets: Tensor, batch_size: int) -> Tensor:
        """Add the gradients of a part of the batch -> its share of the batch's mean loss."""
        with torch.autocast(images.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = (state.model if self.compiled is None else self.compiled)(images)
        loss = self.criterion(logits.float(), targets) / batch_size
        state.scaler.scale(loss).backward()
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        state.correct += (logits.argmax(1) == labels).sum()
        return loss.detach()


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
