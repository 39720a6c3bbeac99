import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn

from imclass.training.temperature import fit_temperature


def draw(seed: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `sharpness` times those by which their labels were drawn."""
    logits = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(seed)) * 2
    labels = torch.distributions.Categorical(logits=logits).sample()
    return (logits * sharpness).numpy(), labels.numpy()


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_the_sharpness(sharpness: float) -> None:
    torch.manual_seed(0)
    assert fit_temperature(*draw(0, sharpness)) == pytest.approx(sharpness, rel=0.03)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_temperature_has_a_lower_loss(seed: int) -> None:
    """Beside SciPy's search; the label's share for all classes is PyTorch's label smoothing."""
    chance = np.random.default_rng(seed)
    count, k, size = chance.integers(1, 200), chance.integers(2, 12), 10 ** chance.uniform(-1, 2)
    logits = (chance.normal(size=(count, k)) * size).astype(np.float32)
    labels = np.where(chance.random(count) < 0.6, logits.argmax(1), chance.integers(0, k, count))

    def loss(log_temperature: float) -> float:
        scaled = torch.from_numpy(logits).double() / np.exp(log_temperature)
        return nn.functional.cross_entropy(scaled, torch.from_numpy(labels), label_smoothing=1 / (count + 2)).item()

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-8})
    best = fit_temperature(logits, labels)
    assert best == pytest.approx(np.exp(found.x), rel=1e-5)
    assert loss(np.log(best)) <= found.fun + 1e-12


def test_few_images_that_are_all_right_do_not_make_the_model_sure() -> None:
    # Of n labels n + 1 of n + 2 and a share of the last are right: what a model that is always right is given.
    for count in 5, 50, 500:
        labels = np.arange(count) % 5
        logits = 3 * np.eye(5, dtype=np.float32)[labels]
        scaled = torch.from_numpy(logits[0]) / fit_temperature(logits, labels)
        assert scaled.softmax(0).max().item() == pytest.approx(1 - 0.8 / (count + 2), rel=1e-6)


@pytest.mark.parametrize(("scale", "expected"), [(1000, 20.0), (0.001, 0.05)])
def test_it_stays_within_bounds(scale: float, expected: float) -> None:
    labels = np.arange(50) % 5
    wrong = np.eye(5, dtype=np.float32)[labels if scale < 1 else (labels + 1) % 5]
    assert fit_temperature(wrong * scale, labels) == pytest.approx(expected)
