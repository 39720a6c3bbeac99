"""Batch of images and labels -> a batch in which each image is one of two, and each target says how much of which."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

ALPHA = {"mixup": 0.2, "cutmix": 1.0}  # of the Beta distribution of shares, as in their papers' training on ImageNet


def build_mix(name: str, num_classes: int) -> "partial[tuple[Tensor, Tensor]]":
    """MixUp (Zhang and others 2017) or CutMix (Yun and others 2019) as a function of images, labels and `seed`."""
    from torchvision.transforms import v2  # takes seconds, which only those pay who mix

    mixers = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
    return partial(_mix, mixers[name](alpha=ALPHA[name], num_classes=num_classes))


def _mix(
    mixer: Any, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], *, seed: int
) -> tuple[UInt8[Tensor, "n c h w"], Float[Tensor, "n classes"]]:
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        mixed, targets = mixer(images.float(), labels)
    return mixed.round().to(torch.uint8), targets
