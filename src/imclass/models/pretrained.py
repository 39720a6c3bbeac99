"""Weights to start a training from: a local file of tensors, or torchvision's -> a network that has them.

They are where a training starts, not part of the model: its own file holds all weights and needs none of these.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from imclass.errors import InputError, list_problems
from imclass.files import hash_file, name_in_errors
from imclass.models.blocks import find_head, freeze
from imclass.models.classifier import Classifier, ModelConfig, adapt_to_images, build_model
from imclass.models.zoo import fetch_zoo_weights
from imclass.tensors import METADATA_KEY, read_tensors

SUFFIXES = (".safetensors", ".pth")
PREFIX = "network."  # of the network's tensors in a model file
OLD_DENSENET = {f".{layer}.{number}.": f".{layer}{number}." for layer in ("norm", "conv") for number in (1, 2)}


@dataclass(frozen=True)
class Pretrained:
    """Tensors by name and the file that they are from; what is known of the images that they were trained on.

    `mean` and `std` are numbers per channel of pixels in 0..1, `size` is height and width in pixels. Nothing is set
    where a training starts from fresh weights.
    """

    path: Path | None = None
    sha256: str | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    mean: list[float] | None = None
    std: list[float] | None = None
    size: tuple[int, int] | None = None


def read_pretrained(name: str, weights: str | None, folder: Path) -> Pretrained:
    """The weights called `weights` for the network called `name`: a file in `folder` by its suffix, else torchvision's.

    Raises InputError where there are none, where a .pth file holds more than tensors (no code from it is run), and
    where a file is damaged.
    """
    if weights is None:
        return Pretrained()
    if not weights.endswith(SUFFIXES):
        path, mean, std, side = fetch_zoo_weights(name, weights)
        return Pretrained(path, hash_file(path), _read_pth(path), mean, std, (side, side))
    path = folder / weights
    sha256 = hash_file(path)
    if path.suffix == ".pth":
        return Pretrained(path, sha256, _read_pth(path))
    try:
        with safe_open(path, framework="pt") as file:
            ours = METADATA_KEY in (file.metadata() or {})
        if not ours:
            return Pretrained(path, sha256, load_file(path))
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file: {error}") from None
    tensors, record = read_tensors(path)
    config: Mapping[str, Any] = record.get("config", {})
    if not {"fit", "mean", "std"} <= config.keys():
        raise InputError(f"{path}: expected a model of imclass, found {record.get('kind')!r}")
    plain = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    size = config["fit"]["height"], config["fit"]["width"]
    return Pretrained(path, sha256, plain, config["mean"], config["std"], size)


def start_model(
    config: ModelConfig,
    start: Pretrained,
    images: UInt8[Tensor, "n c h w"],
    *,
    frozen: int | Literal["backbone"],
) -> Classifier:
    """A model to train: with the weights that are given, else with fresh ones, adapted to some training images.

    `frozen` are the blocks kept from learning, as `freeze` takes them. What is worth knowing of the weights is printed.
    Raises InputError as `load_pretrained` and `freeze` do.
    """
    model = build_model(config)
    if start.path is None:
        adapt_to_images(model, images)
    else:
        print(f"starting from {start.path}: {load_pretrained(model.network, start)}")
        _tell_images(start, config)
    freeze(model.network, frozen)
    return model


def load_pretrained(network: nn.Module, start: Pretrained) -> str:
    """Give a network the weights -> a phrase on its head, which stays fresh where its number of classes is another.

    Raises InputError naming all that is missing, unexpected or of another shape, and where numbers are not finite.
    """
    expected = network.state_dict()
    given = start.tensors  # as it was read: networks find in its metadata how old it is
    head = find_head(network)
    own_head = {key: value for key, value in expected.items() if key.rpartition(".")[0] == head}
    told = f"all weights, {head} too"
    found = given.get(f"{head}.weight")
    fresh = own_head[f"{head}.weight"]
    if found is not None and found.shape[1:] == fresh.shape[1:] and len(found) != len(fresh):
        told = f"all weights but the head {head}, which begins anew: {len(found)} classes -> {len(fresh)}"
        given.update(own_head)
    reshaped = {
        key: f"{key}: expected {_tell_shape(expected[key])}, found {_tell_shape(given[key])}"
        for key in expected.keys() & given.keys()
        if expected[key].shape != given[key].shape
    }
    given.update({key: expected[key] for key in reshaped})
    loaded = network.load_state_dict(given, strict=False)
    problems = [
        *(f"{key}: missing" for key in loaded.missing_keys),
        *(f"{key}: unexpected" for key in loaded.unexpected_keys),
        *(reshaped[key] for key in expected if key in reshaped),
        *(f"{key}: not finite" for key, value in network.state_dict().items() if not value.isfinite().all()),
    ]
    if problems:
        raise InputError(f"{start.path}: not the weights of this network\n{list_problems(problems)}")
    return told


def _read_pth(path: Path) -> dict[str, Tensor]:
    """A state dict as torch.save wrote it, by PyTorch's reader that makes tensors and plain values only."""
    with name_in_errors(path):
        content = path.open("rb")
    with content:
        try:
            tensors = torch.load(content, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged or hostile file can fail in any way
            what = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"{path}: not a file of tensors, or damaged: {what}") from None
    if not isinstance(tensors, dict):
        raise InputError(f"{path}: expected tensors by name, found {type(tensors).__name__}")
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(
                f"{path}: expected tensors by name, as torch.save(model.state_dict(), ...) writes them, "
                f"found {type(value).__name__} as {key!r}"
            )
    for key in list(tensors):  # torchvision's files of densenets are older than its densenets
        for old, new in OLD_DENSENET.items():
            if ".denselayer" in key and old in key:
                tensors[key.replace(old, new)] = tensors.pop(key)
    return tensors


def _tell_images(start: Pretrained, config: ModelConfig) -> None:
    """Whether images come to the network as these weights know them."""
    if start.mean == config.mean and start.std == config.std:
        mean, std = (", ".join(f"{value:.4g}" for value in values or []) for values in (start.mean, start.std))
        print(f"pixels are normalised as for these weights: mean {mean}, standard deviation {std}")
    size = config.fit["height"], config.fit["width"]
    if start.size and start.size != size:
        seen, given = (f"{height} x {width}" for height, width in (start.size, size))
        print(f"these weights were learnt on images of {seen} pixels; build.height and build.width are {given}")


def _tell_shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
