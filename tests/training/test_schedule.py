import pytest

from imclass.training.schedule import constant, one_cycle


def test_one_cycle_over_eight_steps_by_hand() -> None:
    rates = [one_cycle(step, num_steps=8, peak=0.7) for step in range(8)]
    assert rates == pytest.approx([0.35, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 1000])
def test_one_cycle_is_positive_and_at_most_its_peak(num_steps: int) -> None:
    rates = [one_cycle(step, num_steps=num_steps, peak=2.0) for step in range(num_steps)]
    assert min(rates) > 0
    assert max(rates) <= 2.0


def test_constant_stays() -> None:
    assert {constant(step, num_steps=3, peak=0.1) for step in range(3)} == {0.1}
