"""Gradients and batch statistics over several processes, added in a fixed order so that their bits are the same."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from imclass.ranks import Ranks


def share_gradients(model: nn.Module, ranks: Ranks) -> DistributedDataParallel:
    """The model, whose gradients after a backward pass are the sums over all ranks, added from rank 0 on.

    It starts with the weights of rank 0.
    """
    shared = DistributedDataParallel(model, forward_sync_buffers=False)
    shared.register_comm_hook(ranks, _add_in_order)
    return shared


def _add_in_order(ranks: Ranks, bucket: GradBucket) -> Future[Tensor]:
    """Each rank adds a stretch of the gradients of all: as much to send as for an all-reduce, whose order may vary."""
    gradients = bucket.buffer()
    padded = nn.functional.pad(gradients, (0, -len(gradients) % ranks.size))
    sent = torch.empty_like(padded)
    torch.distributed.all_to_all_single(sent, padded)
    total = add_in_order(sent.view(ranks.size, -1))
    future: Future[Tensor] = Future()
    future.set_result(ranks.all_gather(total).view(-1)[: len(gradients)])
    return future


def add_in_order(rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The sum of rows, from the first on, as gradients add up in backward passes one after another."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


class Statistics:
    """What batch norms count in a step: each part of a batch starts from the same, and their mean is kept."""

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
        self._all = [buffer for norm in norms for buffer in norm.buffers()]
        self._running = [buffer for buffer in self._all if buffer.is_floating_point()]
        self._before = [buffer.clone() for buffer in self._all]

    def start_part(self) -> None:
        """Put them back to what they were before the step."""
        if self._all:
            torch._foreach_copy_(self._all, self._before)

    def read(self) -> list[Float[Tensor, " _"]]:
        """Running means and variances as a part has left them."""
        return [buffer.flatten() for buffer in self._running]

    def keep_mean(self, rows: Float[Tensor, "parts d"]) -> None:
        """Set the running ones to the mean over the parts, of what `read` gave for each."""
        mean = add_in_order(rows) / len(rows)
        for buffer, values in zip(self._running, mean.split([buffer.numel() for buffer in self._running]), strict=True):
            buffer.copy_(values.view_as(buffer))
