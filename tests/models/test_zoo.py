import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision import models

from imclass.data.packed import write_packed
from imclass.errors import InputError
from imclass.models.classifier import Classifier, ModelConfig, build_model
from imclass.models.pretrained import read_pretrained, start_model
from imclass.models.summary import summarise_layers

ROOT = Path(__file__).parents[2]
CONFIG = ModelConfig(
    classes=["a", "b", "c"],
    fit={"channels": 3, "height": 32, "width": 32, "fit": "crop", "background": 255},
    mean=[0.485, 0.456, 0.406],
    mirror=False,
    network={"name": "squeezenet1_1"},
    std=[0.229, 0.224, 0.225],
)


def build(name: str, *, channels: int = 3, side: int = 32) -> Classifier:
    fit = {**CONFIG.fit, "channels": channels, "height": side, "width": side}
    return build_model(replace(CONFIG, network={"name": name}, fit=fit))


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights, named as torchvision names its own, where torchvision is told to fetch squeezenet1_1's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.manual_seed(1)
    written = tmp_path / "weights.pth"
    torch.save(models.squeezenet1_1().state_dict(), written)
    path = written.with_name(f"squeezenet1_1-{hashlib.sha256(written.read_bytes()).hexdigest()[:8]}.pth")
    written.rename(path)
    monkeypatch.setattr(models.SqueezeNet1_1_Weights.IMAGENET1K_V1.value, "url", path.as_uri())
    return path


def test_weights_are_fetched_once_and_used_with_their_normalisation(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = read_pretrained("squeezenet1_1", "DEFAULT", tmp_path)
    assert (start.mean, start.std, start.size) == (CONFIG.mean, CONFIG.std, (224, 224))
    model = start_model(CONFIG, start, torch.zeros((1, 3, 32, 32), dtype=torch.uint8), frozen="backbone")
    told = capsys.readouterr().out
    assert "the head classifier.1, which begins anew: 1000 classes -> 3\n" in told
    assert "normalised as for these weights: mean 0.485, 0.456, 0.406, standard deviation 0.229, 0.224" in told
    assert "learnt on images of 224 x 224 pixels; build.height and build.width are 32 x 32" in told
    stored = torch.load(published, weights_only=True)
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, stored[name]) != name.startswith("classifier.1")
    published.unlink()  # without a network
    assert read_pretrained("squeezenet1_1", "IMAGENET1K_V1", tmp_path).sha256 == start.sha256


def test_weights_that_cannot_be_fetched_and_a_damaged_file_of_them_are_told(published: Path, tmp_path: Path) -> None:
    moved = published.rename(published.with_name("moved.pth"))
    with pytest.raises(InputError, match=rf"checkpoints/{published.name}: not to be had from file:.*No such file"):
        read_pretrained("squeezenet1_1", "DEFAULT", tmp_path)
    assert [file for file in (tmp_path / "home").rglob("*") if file.is_file()] == []
    published.write_bytes(moved.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged: its sha256 is not the one in its name"):
        read_pretrained("squeezenet1_1", "DEFAULT", tmp_path)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet18", "DEFALT", "expected IMAGENET1K_V1, DEFAULT or a .*, found 'DEFALT'; did you mean DEFAULT?"),
        ("cnn", "DEFAULT", "expected a .* file for cnn, which is no network of torchvision, found 'DEFAULT'$"),
        ("resnt18", "DEFAULT", "expected a .* file for resnt18, which .* found 'DEFAULT'; did you mean resnet18?"),
    ],
)
def test_a_name_that_torchvision_does_not_have_is_told(name: str, weights: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^model.weights: {message}"):
        read_pretrained(name, weights, Path())


@pytest.mark.parametrize(
    ("name", "channels", "side", "message"),
    [
        ("resnt18", 3, 32, "expected mlp, cnn, resnet or a classifier of torchvision.models, .*did you mean resnet18?"),
        ("fasterrcnn_resnet50_fpn", 3, 32, "expected mlp, cnn, resnet or a classifier"),
        ("googlenet", 3, 224, "googlenet has extra heads in training"),
        ("inception_v3", 3, 299, "inception_v3 has extra heads in training"),
        ("resnet18", 1, 32, "resnet18 takes colour images: expected build.channels 3, found 1"),
        ("vit_b_16", 3, 33, "vit_b_16 is not to be had for images of 33 pixels"),
    ],
)
def test_a_network_that_cannot_be_used_is_told(name: str, channels: int, side: int, message: str) -> None:
    with pytest.raises(InputError, match=f"^model.name: {message}"):
        build(name, channels=channels, side=side)


def test_images_too_small_for_a_network_are_told_before_training() -> None:
    model = build("squeezenet1_1", side=8)
    with pytest.raises(InputError, match=r"^model.name: squeezenet1_1 takes no images of 8 x 8 pixels \(build\)"):
        summarise_layers(model)


def test_a_large_network_is_summarised_by_its_blocks() -> None:
    lines = summarise_layers(build("squeezenet1_1")).splitlines()
    assert len(lines) == 2 + 9 + 1
    assert lines[-1].split()[:3] == [
        "in",
        "all",
        f"{sum(p.numel() for p in models.squeezenet1_1(num_classes=3).parameters()):,}",
    ]


def test_own_networks_and_local_weights_load_no_torchvision(tmp_path: Path) -> None:
    code = f"""
import runpy, sys, torch
for stage in ("train", "evaluate", "export"):
    runpy.run_path({str(ROOT / "stages")!r} + f"/{{stage}}.py")
from pathlib import Path
from imclass.models.classifier import ModelConfig, build_model
from imclass.models.modelfile import save_model
from imclass.models.pretrained import read_pretrained, start_model
fit = {{"channels": 1, "height": 8, "width": 8}}
for network in (
    {{"name": "mlp", "hidden": [4], "dropout": 0.0}},
    {{"name": "cnn", "widths": [4], "dropout": 0.0}},
    {{"name": "resnet", "widths": [4], "blocks": 1}},
):
    config = ModelConfig(["a", "b"], fit, [0.5], False, network, [0.25])
    save_model(build_model(config), Path("m.safetensors"))
    start = read_pretrained(network["name"], "m.safetensors", Path())
    start_model(config, start, torch.zeros((1, 1, 8, 8), dtype=torch.uint8), frozen="backbone")
assert "torchvision" not in sys.modules
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=env, check=True)


def test_the_train_stage_gives_the_same_bytes_again(tmp_path: Path) -> None:
    """A network with batch norm, dropout and stochastic depth, all drawn from PyTorch's global generator."""
    rows = [(f"{number:03}", "abc"[number % 3], "train" if number < 100 else "val") for number in range(120)]
    pixels = np.random.default_rng(0).integers(0, 256, (120, 3, 32, 32), np.uint8)
    write_packed(tmp_path / "packed", rows, [([name for name, _, _ in rows], pixels)], CONFIG.fit)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"epochs": 2, "batch_size": 32}
    params["build"] |= {"channels": 3, "height": 32, "width": 32}
    params["model"]["name"] = "efficientnet_b0"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    results = []
    for run in "first", "second":
        outs = [tmp_path / f"{run}.safetensors", tmp_path / f"{run}.csv"]
        command = [sys.executable, str(ROOT / "stages/train.py"), "packed", "weights", *map(str, outs)]
        subprocess.run(command, cwd=tmp_path, env={**os.environ, "DVC_ROOT": str(tmp_path)}, check=True)
        (tmp_path / ".checkpoints").rename(tmp_path / f"{run}-checkpoints")  # nothing to go on from
        results.append([path.read_bytes() for path in outs])
    assert results[0] == results[1]
