"""Network -> its blocks and its head; the first blocks can be kept from learning."""

from typing import Literal

from torch import nn

from imclass.errors import InputError


def find_head(network: nn.Module) -> str:
    """Name of the layer that gives the logits: the last Linear or convolution."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]


def list_blocks(network: nn.Module) -> dict[str, nn.Module]:
    """By name, the parts of a network that have parameters, from the images on, the head left out.

    They are the members of the network, in their order; of one that is a Sequential, its own members.
    """
    parts: dict[str, nn.Module] = {}
    for name, member in network.named_children():
        inner = member.named_children() if isinstance(member, nn.Sequential) else ()
        parts |= {f"{name}.{last}": part for last, part in inner} or {name: member}
    head = network.get_submodule(find_head(network))
    return {name: part for name, part in parts.items() if part is not head and any(True for _ in part.parameters())}


def freeze(network: nn.Module, blocks: int | Literal["backbone"]) -> None:
    """Keep the first `blocks`, or all but the head, from learning.

    Parameters that are in no block, such as the class token of a transformer, go with the first. A part that then has
    nothing to learn stays in eval mode (see Classifier), so that the batch norms in it stand still, too. Raises
    InputError where the network has fewer blocks.
    """
    if blocks == 0:
        return
    names = list(list_blocks(network))
    if blocks != "backbone" and blocks > len(names):
        raise InputError(
            f"model.freeze: expected at most {len(names)}, the blocks of this network, found {blocks}: "
            f"{', '.join(names)}"
        )
    learnt = [*names[len(names) if blocks == "backbone" else blocks :], find_head(network)]
    learning = {id(parameter) for name in learnt for parameter in network.get_submodule(name).parameters()}
    for parameter in network.parameters():
        if id(parameter) not in learning:
            parameter.requires_grad_(False)
