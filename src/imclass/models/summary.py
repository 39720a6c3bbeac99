"""Model -> a table of its layers for the screen."""

import torch
from torch import Tensor, nn

from imclass.errors import InputError
from imclass.models.blocks import find_head, list_blocks
from imclass.models.classifier import Classifier

MOST_ROWS = 40  # of a network with more layers its blocks are told


def summarise_layers(model: Classifier) -> str:
    """One line per layer with the shape of its output (without the batch), its parameters and those that are learnt.

    Of a large network it is a line per block. Raises InputError where the network cannot take images of this size.
    """
    rows: list[tuple[str, str, int, int]] = []

    def record(layer: nn.Module, _: object, output: object) -> None:
        shape = " x ".join(map(str, output.shape[1:])) if isinstance(output, Tensor) else ""  # GRUs give several
        rows.append((type(layer).__name__, shape, *_count(layer)))

    layers = [layer for layer in model.modules() if not list(layer.children())]
    if len(layers) > MOST_ROWS:
        layers = [*list_blocks(model.network).values(), model.network.get_submodule(find_head(model.network))]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    shape = (1, *(model.config.fit[key] for key in ("channels", "height", "width")))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model.network(torch.zeros(shape, device=model.pixel_mean.device))
    except (AssertionError, RuntimeError, ValueError) as error:
        name, (_, _, height, width) = model.config.network["name"], shape
        raise InputError(f"model.name: {name} takes no images of {height} x {width} pixels (build): {error}") from None
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
