"""Model -> optimizer over the parameters that are learnt."""

from typing import Any

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, *, name: str, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """sgd (Nesterov where there is momentum) or adamw (which has its own averages and no momentum).

    Frozen parameters are left out. Only weights of more than one axis decay: no biases, no norms, and nothing of
    another name, such as positions and scales of layers.
    """
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_weight = parameter.ndim > 1 and "weight" in path.split(".")[-1]
            (decaying if is_weight else others).append(parameter)
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    _keep_compiler_out()
    if name == "sgd":
        return _EagerSGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    return _EagerAdamW(groups, lr=lr)


# PyTorch's optimizers import its compiler, which takes longer than a small training, to tell it to leave them alone.
# Here nothing is compiled: the same steps, without the wrappers that import it.


def _keep_compiler_out() -> None:
    for method in vars(torch.optim.Optimizer).values():
        plain: Any = getattr(method, "__wrapped__", None)
        if plain is not None:
            plain.__dynamo_disable = plain  # what the wrapper would ask the compiler for


class _EagerSGD(torch.optim.SGD):
    step = torch.no_grad()(torch.optim.SGD.step.__wrapped__)  # type: ignore[attr-defined]


class _EagerAdamW(torch.optim.AdamW):
    step = torch.no_grad()(torch.optim.AdamW.step.__wrapped__)  # type: ignore[attr-defined]
