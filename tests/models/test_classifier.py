from dataclasses import replace

import pytest
import torch
from torch import nn

from imclass.errors import InputError
from imclass.models.classifier import Classifier, ModelConfig, adapt_to_images, build_model
from imclass.models.cnn import WHITEN_EPSILON, Cnn

MLP = {"name": "mlp", "hidden": [512, 512], "dropout": 0.0}
CNN = {"name": "cnn", "widths": [8, 16], "dropout": 0.0}
FINE_CNN = {**CNN, "stride": 1}
RESNET = {"name": "resnet", "widths": [8, 16], "blocks": 1}


def make_config(network: dict[str, object], *, channels: int = 1, side: int = 28, mirror: bool = False) -> ModelConfig:
    return ModelConfig(
        classes=[str(digit) for digit in range(10)],
        fit={"channels": channels, "height": side, "width": side, "fit": "crop", "background": 255},
        mean=[0.25] * channels,
        mirror=mirror,
        network=network,
        std=[0.5] * channels,
    )


def random_images(count: int, *, channels: int = 1, side: int = 28) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def test_mlp_is_the_network_of_the_tutorial() -> None:
    model = build_model(make_config(MLP))
    tutorial = nn.Sequential(
        nn.Flatten(), nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    for ours, theirs in zip(model.parameters(), tutorial.parameters(), strict=True):
        theirs.data.copy_(ours)
    images = random_images(5)
    torch.testing.assert_close(model(images), tutorial((images / 255 - 0.25) / 0.5))


@pytest.mark.parametrize("network", [MLP, CNN, FINE_CNN, RESNET], ids=["mlp", "cnn", "fine cnn", "resnet"])
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 8), (1, 28), (3, 64)])
def test_networks_take_small_and_large_images(network: dict[str, object], channels: int, side: int) -> None:
    model = build_model(make_config(network, channels=channels, side=side))
    assert model(random_images(2, channels=channels, side=side)).shape == (2, 10)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_probabilities_are_the_softmax_of_the_logits_over_the_temperature(temperature: float) -> None:
    model = build_model(replace(make_config(MLP), temperature=temperature)).eval()
    logits = model(random_images(3)).detach().double() / temperature
    expected = logits.exp() / logits.exp().sum(1, keepdim=True)
    found = model.predict_probabilities(random_images(3)).detach().double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_normalise_gives_mean_0_and_deviation_1() -> None:
    images = random_images(50)
    pixels = images.double() / 255
    config = replace(make_config(MLP), mean=[pixels.mean().item()], std=[pixels.std().item()])
    model = Classifier(nn.Identity(), config)
    normalised = model.normalise(images)
    assert abs(normalised.mean().item()) < 1e-4
    assert abs(normalised.std().item() - 1) < 1e-4


def test_mirror_judges_an_image_and_its_mirror_image_alike_outside_training() -> None:
    model = build_model(make_config(CNN, mirror=True))
    adapt_to_images(model, random_images(20))
    images = random_images(4)
    model.eval()
    torch.testing.assert_close(model(images), model(images.flip(3)))
    plain = build_model(make_config(CNN))
    plain.load_state_dict(model.state_dict())
    plain.eval()
    torch.testing.assert_close(model(images), (plain(images) + plain(images.flip(3))) / 2)


@pytest.mark.parametrize(("stride", "size", "count"), [(1, 3, 9), (2, 4, 16)])
def test_stem_whitens_patches_of_the_images(stride: int, size: int, count: int) -> None:
    # Smoothed noise, whose neighbouring pixels are alike.
    images = nn.functional.avg_pool2d(torch.randn((200, 1, 12, 12), generator=torch.Generator().manual_seed(0)), 3, 1)
    cnn = Cnn(1, 10, widths=[8], dropout=0.0, stride=stride)
    cnn.whiten_stem(images)
    responses = nn.functional.conv2d(images, cnn.stem.weight).transpose(0, 1).flatten(1)[:count].double()
    variances = torch.cov(responses).diagonal()
    patches = nn.functional.unfold(images, size).transpose(1, 2).flatten(0, 1).double()
    expected = torch.linalg.eigvalsh(torch.cov(patches.T))
    torch.testing.assert_close(variances, expected / (expected + WHITEN_EPSILON), rtol=1e-3, atol=1e-3)
    assert (torch.cov(responses) - variances.diag()).abs().max() < 1e-3
    assert torch.equal(cnn.stem.weight[count:], -cnn.stem.weight[:count])


def test_stem_is_frozen_and_all_else_learns() -> None:
    model = build_model(make_config(CNN))
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["network.stem.weight"]


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(
        InputError, match="expected mlp, cnn, resnet or a classifier of torchvision.models, found 'vit'"
    ):
        build_model(make_config({"name": "vit"}))
