from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from imclass.data.augment import flip_and_shift
from imclass.data.loader import ShuffledBatches, load_batches
from imclass.data.packed import Split
from imclass.errors import InputError
from imclass.models.blocks import find_head, freeze, list_blocks
from imclass.models.classifier import Classifier, ModelConfig, build_model
from imclass.training.fit import fit
from imclass.training.optimizer import build_optimizer
from imclass.training.schedule import constant
from imclass.training.state import State, start_training
from imclass.training.step import Learner

CONFIG = ModelConfig(
    classes=["a", "b"],
    fit={"channels": 3, "height": 16, "width": 16, "fit": "crop", "background": 255},
    mean=[0.5] * 3,
    mirror=False,
    network={},
    std=[0.25] * 3,
)
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp", "hidden": [8, 8], "dropout": 0.0},
    "cnn": {"name": "cnn", "widths": [4, 8], "dropout": 0.0},
    "resnet": {"name": "resnet", "widths": [4, 8], "blocks": 1},
    "mobilenet": {"name": "mobilenet_v3_small"},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # more wait for each other where tests run side by side
    yield
    torch.set_num_threads(before)


def make_model(network: str) -> Classifier:
    torch.manual_seed(0)
    return build_model(replace(CONFIG, network=NETWORKS[network]))


class NoSaver:
    def is_due(self) -> bool:
        return False

    def save(self, state: State) -> None:
        pass


def train(model: Classifier) -> State:
    chance = np.random.default_rng(0)
    split = Split(chance.integers(0, 256, (24, 3, 16, 16), np.uint8), chance.integers(0, 2, 24))
    device = torch.device("cpu")
    augment = partial(flip_and_shift, flip=True, shift=0)
    dataset = ShuffledBatches(split.images, split.labels, batch_size=8, augment=augment, seed=0, device=device)
    optimizer = build_optimizer(model, name="adamw", lr=0.01, momentum=0.9, weight_decay=0.1)
    state = start_training(model, optimizer, num_batches=len(dataset))
    schedule = partial(constant, num_steps=6, peak=0.01)
    fit(
        state,
        load_batches(dataset),
        split,
        NoSaver(),
        epochs=2,
        schedule=schedule,
        learn=Learner(nn.CrossEntropyLoss(reduction="sum"), dataset.division),
    )
    return state


# One of each family whose parts have names and an order of their own.
FAMILIES = {
    "alexnet": ("classifier.6", 7),
    "convnext_tiny": ("classifier.2", 9),
    "densenet121": ("classifier", 10),
    "efficientnet_b0": ("classifier.1", 9),
    "maxvit_t": ("classifier.5", 5),
    "mnasnet0_5": ("classifier.1", 14),
    "mobilenet_v2": ("classifier.1", 19),
    "mobilenet_v3_small": ("classifier.3", 14),
    "resnet18": ("fc", 10),
    "shufflenet_v2_x0_5": ("fc", 20),
    "squeezenet1_1": ("classifier.1", 9),
    "swin_t": ("head", 9),
    "vgg11": ("classifier.6", 10),
    "vit_b_16": ("heads.head", 2),
}


@pytest.mark.parametrize(("name", "head", "count"), [(name, *found) for name, found in FAMILIES.items()])
def test_the_head_gives_the_logits_and_the_rest_are_blocks(name: str, head: str, count: int) -> None:
    with torch.device("meta"):
        network = models.get_model(name, num_classes=7)
    assert find_head(network) == head
    layer = network.get_submodule(head)
    assert len(layer.weight) == 7
    blocks = list_blocks(network)
    assert len(blocks) == count
    assert layer not in blocks.values()
    held = [parameter for block in blocks.values() for parameter in block.parameters()]
    assert len(held) == len(set(map(id, held)))
    assert {id(p) for p in network.parameters()} - {*map(id, held), *map(id, layer.parameters())} <= {
        id(parameter) for parameter in network.parameters(recurse=False)
    }


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("blocks", [2, "backbone"])
def test_frozen_blocks_do_not_change_by_a_bit(network: str, blocks: int | Literal["backbone"]) -> None:
    model = make_model(network)
    freeze(model.network, blocks)
    names = list(list_blocks(model.network))
    frozen = tuple(f"network.{name}." for name in (names if blocks == "backbone" else names[:blocks]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = train(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if not name.startswith(frozen)}
    held = {id(parameter) for group in state.optimizer.param_groups for parameter in group["params"]}
    learnt = {name for name, parameter in model.named_parameters() if id(parameter) in held}
    assert learnt == {name for name, _ in model.named_parameters() if not name.startswith(frozen)}
    assert len(state.optimizer.state_dict()["state"]) == len(learnt)


@pytest.mark.parametrize("network", NETWORKS)
def test_frozen_blocks_record_no_graph_and_give_the_same_in_training(network: str) -> None:
    model = make_model(network)
    freeze(model.network, "backbone")
    seen: dict[str, list[torch.Tensor]] = {}
    for name, block in list_blocks(model.network).items():
        block.register_forward_hook(lambda _, __, output, name=name: seen.setdefault(name, []).append(output.clone()))
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    logits = model.train()(images)
    assert logits.requires_grad
    model.eval()(images)
    assert seen
    for trained, judged in seen.values():
        assert trained.grad_fn is None
        assert not trained.requires_grad
        assert torch.equal(trained, judged)


def test_what_is_in_no_block_goes_with_the_first() -> None:
    with torch.device("meta"):
        network = models.get_model("vit_b_32", num_classes=2)
    freeze(network, 1)
    learnt = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert learnt == {"encoder", "heads"}


def test_more_blocks_than_there_are_is_told_with_their_names() -> None:
    network = make_model("resnet").network
    with pytest.raises(InputError, match=r"model.freeze: expected at most 4, .* found 5: stem.0, stem.1, blocks.0, bl"):
        freeze(network, 5)
    freeze(network, 0)
    assert all(parameter.requires_grad for parameter in network.parameters())
