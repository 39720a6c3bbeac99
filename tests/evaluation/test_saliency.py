import numpy as np
import torch

from imclass.evaluation.saliency import compute_saliency
from imclass.models.classifier import Classifier, ModelConfig


class Corner(torch.nn.Module):
    """Logits of two classes: twice the top left pixel of the first channel, and the mean of all."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([2 * images[:, 0, 0, 0], images.mean((1, 2, 3))], dim=1)


def test_saliency_is_where_pixels_change_the_logit() -> None:
    config = ModelConfig(["a", "b"], {}, [0.5] * 3, False, {}, [0.25] * 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 9, 8), np.uint8)
    found = compute_saliency(Classifier(Corner(), config).eval(), images, np.array([0, 1]))
    corner = np.zeros((9, 8), np.float32)
    corner[0, 0] = 1
    np.testing.assert_allclose(found[0], corner, atol=1e-6)
    np.testing.assert_array_equal(found[1], 0)  # every pixel counts alike


def test_no_image_has_no_saliency() -> None:
    config = ModelConfig(["a", "b"], {}, [0.5], False, {}, [0.25])
    found = compute_saliency(Classifier(Corner(), config), np.zeros((0, 1, 4, 4), np.uint8), np.zeros(0, np.int64))
    assert found.shape == (0, 4, 4)
