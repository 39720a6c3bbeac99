"""Model -> a table of its layers for the screen."""

import torch
from torch import Tensor, nn

from imclass.models.classifier import Classifier


def summarise_layers(model: Classifier) -> str:
    """One line per layer with the shape of its output (without the batch), its parameters and those that are learnt."""
    rows: list[tuple[str, str, int, int]] = []

    def record(layer: nn.Module, _: object, output: Tensor) -> None:
        shape = " x ".join(map(str, output.shape[1:]))
        rows.append((type(layer).__name__, shape, *_count(layer)))

    layers = [layer for layer in model.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    shape = (1, *(model.config.fit[key] for key in ("channels", "height", "width")))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        model.network(torch.zeros(shape, device=model.pixel_mean.device))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    lines = [f"{'layer':<20}{'output':>16}{'parameters':>14}{'trainable':>14}"]
    lines += [f"{name:<20}{output:>16}{total:>14,}{learnt:>14,}" for name, output, total, learnt in rows]
    total, learnt = _count(model)
    return "\n".join([*lines, f"{'in all':<36}{total:>14,}{learnt:>14,}"])


def _count(module: nn.Module) -> tuple[int, int]:
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
