import numpy as np
import pytest
import torch

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


def test_no_other_temperature_has_a_lower_loss() -> None:
    torch.manual_seed(0)
    logits, labels = draw(1, 2.5)
    best = fit_temperature(logits, labels)

    def loss(temperature: float) -> float:
        scaled = torch.from_numpy(logits).double() / temperature
        return torch.nn.functional.cross_entropy(scaled, torch.from_numpy(labels)).item()

    assert loss(best) < min(loss(best * 1.001), loss(best / 1.001))


@pytest.mark.parametrize(("right", "expected"), [(True, 0.05), (False, 20.0)])
def test_it_stays_finite_where_all_or_none_are_right(right: bool, expected: float) -> None:
    labels = np.arange(50) % 5
    logits = np.eye(5, dtype=np.float32)[labels if right else (labels + 1) % 5]
    assert fit_temperature(logits, labels) == pytest.approx(expected)
