import numpy as np
import torch
from torch import Tensor, nn

from imclass.models.classifier import Classifier, ModelConfig
from imclass.models.inference import BATCH_IMAGES, compute_logits
from imclass.models.summary import summarise_layers

CONFIG = ModelConfig(
    classes=["a", "b"],
    fit={"channels": 1, "height": 2, "width": 2, "fit": "crop", "background": 255},
    mean=[0.0],
    mirror=False,
    network={},
    std=[1.0],
)


class Rows(nn.Module):
    """A network that reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(2, 2, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        states, _ = self.rows(images.flatten(1, 2))
        return states[:, -1]


def make_model() -> Classifier:
    return Classifier(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2)), CONFIG)


def test_logits_follow_the_images_over_several_batches() -> None:
    model = make_model().eval()
    images = np.random.default_rng(0).integers(0, 256, (2 * BATCH_IMAGES + 7, 1, 2, 2), np.uint8)
    one_by_one = torch.cat([model(torch.from_numpy(image[None])) for image in images])
    torch.testing.assert_close(compute_logits(model, images), one_by_one.detach())


def test_large_images_are_judged_a_few_at_once() -> None:
    model = Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)), CONFIG)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    images = np.random.default_rng(0).integers(0, 256, (13, 1, 512, 512), np.uint8)
    assert compute_logits(model, images).shape == (13, 2)
    assert sizes == [4, 4, 4, 1]


def test_inference_is_in_eval_mode_and_leaves_the_mode_alone() -> None:
    model = make_model().train()
    images = np.full((3, 1, 2, 2), 200, np.uint8)
    assert torch.equal(compute_logits(model, images), compute_logits(model, images))
    assert model.training
    assert not compute_logits(model, images).requires_grad


def test_summary_counts_parameters_by_layer() -> None:
    model = make_model()
    model.network[2].bias.requires_grad_(False)  # type: ignore[index]
    lines = summarise_layers(model).splitlines()
    assert lines[3].split() == ["Linear", "2", "10", "8"]
    assert lines[-1].split() == ["in", "all", "10", "8"]


def test_summary_takes_layers_of_several_outputs() -> None:
    model = make_model()
    model.network = Rows()
    assert summarise_layers(model).splitlines()[1].split() == ["GRU", "36", "36"]
