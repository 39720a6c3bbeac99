"""Networks of torchvision.models and their weights. Importing it takes seconds, so only who asks for one pays."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn

from imclass.errors import InputError
from imclass.files import hash_file

EXTRA_HEADS = ("googlenet", "inception_v3")  # give several logits in training
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")  # the first digits of the sha256 of a file of weights


def build_zoo_network(name: str, channels: int, side: int, num_classes: int, *, ours: Sequence[str]) -> nn.Module:
    """A network of torchvision with fresh weights and a head for `num_classes`.

    Raises InputError where there is none of that name, naming the nearest of torchvision's and `ours`, or where it
    cannot be used here.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        wanted = f"expected {', '.join(ours)} or a classifier of torchvision.models"
        raise InputError(f"model.name: {wanted}, found {name!r}{_suggest(name, [*ours, *known])}")
    if name in EXTRA_HEADS:
        raise InputError(f"model.name: {name} has extra heads in training, which are not supported here: take another")
    if channels != 3:
        raise InputError(f"model.name: {name} takes colour images: expected build.channels 3, found {channels}")
    options = {"image_size": side} if name.startswith("vit_") else {}  # its positions are learnt
    try:
        return models.get_model(name, weights=None, num_classes=num_classes, **options)
    except (AssertionError, ValueError) as error:
        raise InputError(f"model.name: {name} is not to be had for images of {side} pixels: {error}") from None


def fetch_zoo_weights(name: str, weights: str) -> tuple[Path, list[float], list[float], int]:
    """The file of torchvision's weights for a network, downloaded where torch.hub does not keep it yet, the mean and
    the standard deviation that its images were normalised by, and their size in pixels.

    Raises InputError where there are none of that name, where the download fails, and where the file is damaged.
    """
    from torchvision import models

    if name not in (networks := models.list_models(module=models)):
        raise InputError(
            f"model.weights: expected a .safetensors or .pth file for {name}, which is no network of torchvision, "
            f"found {weights!r}{_suggest(name, networks)}"
        )
    known = models.get_model_weights(name).__members__
    if weights not in known:
        files = "a .safetensors or .pth file"
        raise InputError(
            f"model.weights: expected {', '.join(known)} or {files}, found {weights!r}{_suggest(weights, list(known))}"
        )
    entry = known[weights].value
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(entry.url).path).name)
    if not path.exists():
        print(f"fetching {entry.url} to {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(entry.url, str(path))
        except (OSError, ValueError) as error:
            advice = "fetch it on a machine with a network and put it there"
            raise InputError(f"{path}: not to be had from {entry.url}: {error}; {advice}") from None
    if (named := HASH_IN_NAME.search(path.name)) and not hash_file(path).startswith(named[1]):
        raise InputError(f"{path}: damaged: its sha256 is not the one in its name; delete it, to fetch it again")
    transforms = entry.transforms()
    return path, list(transforms.mean), list(transforms.std), transforms.crop_size[0]


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
