import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from imclass.training.optimizer import build_optimizer


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_parameters_are_left_out(name: str) -> None:
    model = make_model()
    model.get_parameter("0.weight").requires_grad_(False)
    optimizer = build_optimizer(model, name=name, lr=0.1, momentum=0.9, weight_decay=0.1)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in model.named_parameters() if name != "0.weight"}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_matrices_and_kernels_decay(name: str) -> None:
    optimizer = build_optimizer(make_model(), name=name, lr=0.1, momentum=0.9, weight_decay=0.1)
    decay = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {2: 0.1, 1: 0.0}


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t", "convnext_tiny"])
def test_positions_and_scales_of_layers_do_not_decay(name: str) -> None:
    """Those that torchvision's own recipes except as "transformer_embedding", and ConvNeXt's scales."""
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    optimizer = build_optimizer(model, name="sgd", lr=0.1, momentum=0.9, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    still = {names[id(p)] for p in optimizer.param_groups[1]["params"] if p.ndim > 1}
    own = "class_token", "pos_embedding", "relative_position_bias_table", "layer_scale"
    assert still == {name for name in names.values() if name.endswith(own)}
    assert still


def test_sgd_step_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(2.0)
    optimizer = build_optimizer(model, name="sgd", lr=0.1, momentum=0.5, weight_decay=0.1)
    for _ in range(2):
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
    # Nesterov: v <- 0.5 v + g, w <- w - 0.1 (g + 0.5 v) with g = 1 + 0.1 w
    weight, velocity = 2.0, 0.0
    for step in range(2):
        gradient = 1 + 0.1 * weight
        velocity = gradient if step == 0 else 0.5 * velocity + gradient
        weight -= 0.1 * (gradient + 0.5 * velocity)
    assert model.weight.item() == pytest.approx(weight)


def test_sgd_without_momentum_is_plain() -> None:
    optimizer = build_optimizer(make_model(), name="sgd", lr=0.1, momentum=0.0, weight_decay=0.0)
    assert not optimizer.param_groups[0]["nesterov"]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_are_those_of_pytorch_without_its_compiler(name: str) -> None:
    code = f"""
import sys, torch
from imclass.training.optimizer import build_optimizer
torch.manual_seed(0)
model, twin = torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(3, 2, bias=False)
twin.load_state_dict(model.state_dict())
ours = build_optimizer(model, name={name!r}, lr=0.1, momentum=0.9, weight_decay=0.1)
def step(net, optimizer):
    optimizer.zero_grad()
    net(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
for _ in range(3):
    step(model, ours)
ours.load_state_dict(ours.state_dict())
assert "torch._dynamo" not in sys.modules
theirs = {{
    "sgd": lambda: torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda: torch.optim.AdamW(twin.parameters(), lr=0.1, weight_decay=0.1),
}}[{name!r}]()
for _ in range(3):
    step(twin, theirs)
assert torch.equal(model.weight, twin.weight)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
