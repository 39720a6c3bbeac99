import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from imclass.errors import InputError
from imclass.files import hash_file
from imclass.models.classifier import ModelConfig, build_model
from imclass.models.modelfile import save_model
from imclass.models.pretrained import Pretrained, load_pretrained, read_pretrained, start_model
from imclass.tensors import write_tensors

CONFIG = ModelConfig(
    classes=["a", "b", "c"],
    fit={"channels": 1, "height": 8, "width": 8, "fit": "crop", "background": 255},
    mean=[0.5],
    mirror=False,
    network={"name": "cnn", "widths": [4], "dropout": 0.0},
    std=[0.25],
)
HEAD = ("network.head.1.weight", "network.head.1.bias")
IMAGES = torch.zeros((1, 1, 8, 8), dtype=torch.uint8)


def make_network(seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(replace(CONFIG, **changes)).network


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
    return path


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_of_the_same_network_is_taken_whole(name: str, tmp_path: Path) -> None:
    given = make_network(1).state_dict()
    path = write(tmp_path / name, dict(given))
    start = read_pretrained("cnn", name, tmp_path)
    assert (start.path, start.sha256, start.mean) == (path, hash_file(path), None)
    network = make_network()
    assert load_pretrained(network, start) == "all weights, head.1 too"
    assert all(torch.equal(tensor, given[key]) for key, tensor in network.state_dict().items())


def test_a_model_of_other_classes_gives_all_but_its_head_and_its_normalisation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    nine = build_model(replace(CONFIG, classes=[*"abcdefghi"], mean=[0.3], std=[0.2]))
    save_model(nine, tmp_path / "nine.safetensors")
    start = read_pretrained("cnn", "nine.safetensors", tmp_path)
    assert (start.mean, start.std, start.size) == ([0.3], [0.2], (8, 8))
    torch.manual_seed(0)
    model = start_model(replace(CONFIG, mean=[0.3], std=[0.2]), start, IMAGES, frozen=0)
    torch.manual_seed(0)
    fresh, found = build_model(CONFIG).state_dict(), model.state_dict()
    assert all(torch.equal(found[key], fresh[key] if key in HEAD else nine.state_dict()[key]) for key in found)
    assert capsys.readouterr().out.splitlines() == [
        f"starting from {tmp_path / 'nine.safetensors'}: all weights but the head head.1, which begins anew: "
        "9 classes -> 3",
        "pixels are normalised as for these weights: mean 0.3, standard deviation 0.2",
    ]


def test_no_weights_are_fresh_ones(tmp_path: Path) -> None:
    start = read_pretrained("cnn", None, tmp_path)
    assert start == Pretrained()
    torch.manual_seed(0)
    images = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8)
    model = start_model(CONFIG, start, images, frozen=0)
    assert model.get_buffer("pixel_mean").item() == 127.5


def test_all_that_does_not_fit_is_told_at_once() -> None:
    given = make_network(1).state_dict()
    given["other.weight"] = given.pop("blocks.1.0.weight")
    given["blocks.1.2.bias"] = torch.zeros(5)
    given["head.1.bias"] = torch.tensor([0.0, torch.nan, 0.0])
    with pytest.raises(InputError) as caught:
        load_pretrained(make_network(), Pretrained(Path("w.pth"), "", given))
    assert str(caught.value).splitlines() == [
        "w.pth: not the weights of this network",
        "  blocks.1.0.weight: missing",
        "  other.weight: unexpected",
        "  blocks.1.2.bias: expected 4, found 5",
        "  head.1.bias: not finite",
    ]


def test_a_head_over_other_features_is_no_head_of_other_classes() -> None:
    given = make_network(1).state_dict()
    given["head.1.weight"] = torch.zeros(9, 7)
    with pytest.raises(InputError, match="head.1.weight: expected 3 x 8, found 9 x 7"):
        load_pretrained(make_network(), Pretrained(Path("w.pth"), "", given))


class Hostile:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch hacked",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Hostile(), 2), "not a file of tensors, or damaged: Weights only load failed"),
        (b"", "not a file of tensors, or damaged: "),
        (b"PK\x03\x04cut", "not a file of tensors, or damaged: "),
        ([torch.zeros(2)], "expected tensors by name, found list"),
        ({"state_dict": {"w": torch.zeros(2)}, "epoch": 3}, "expected tensors by name, .* found dict as 'state_dict'"),
        (Hostile(), "not a file of tensors, or damaged: Weights only load failed"),
    ],
    ids=["pickle", "empty", "cut", "list", "checkpoint", "saved-object"],
)
def test_a_pth_file_of_anything_else_is_refused_and_runs_no_code(
    content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(InputError, match=rf"w\.pth: {message}") as caught:
        read_pretrained("cnn", "w.pth", tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "hacked").exists()


def test_a_damaged_or_foreign_safetensors_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"a\.safetensors: not a safetensors file"):
        read_pretrained("cnn", "a.safetensors", tmp_path)
    write_tensors(tmp_path / "b.safetensors", {"w": torch.zeros(1)}, {"kind": "checkpoint 1"})
    with pytest.raises(InputError, match=r"b\.safetensors: expected a model of imclass, found 'checkpoint 1'"):
        read_pretrained("cnn", "b.safetensors", tmp_path)
    save_model(build_model(CONFIG), tmp_path / "c.safetensors")
    content = bytearray((tmp_path / "c.safetensors").read_bytes())
    content[-9] ^= 1
    (tmp_path / "c.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.safetensors: damaged"):
        read_pretrained("cnn", "c.safetensors", tmp_path)
    with pytest.raises(OSError, match=r"none\.pth"):
        read_pretrained("cnn", "none.pth", tmp_path)


def test_names_that_torchvision_has_changed_since_are_understood(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.DenseNet(growth_rate=4, block_config=(2,), num_init_features=8, num_classes=3)
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for key, value in network.state_dict().items()
    }
    old = {
        key: value for key, value in old.items() if not key.endswith("num_batches_tracked")
    }  # as before PyTorch 0.4.1
    assert any(".norm.1." in key for key in old)
    write(tmp_path / "dense.pth", old)
    load_pretrained(network, read_pretrained("densenet121", "dense.pth", tmp_path))
