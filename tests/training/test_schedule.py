import pytest

from imclass.training.schedule import constant, cosine, one_cycle


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


def test_cosine_over_forty_steps_by_hand() -> None:
    rates = [cosine(step, num_steps=40, peak=0.8) for step in range(40)]
    # Two steps of warm-up; then 0.4 (1 + cos x), with x in thirty-ninths of pi.
    assert rates[:2] == pytest.approx([0.4, 0.8])
    assert rates[2] == pytest.approx(0.7987029, abs=1e-7)
    assert rates[14] == pytest.approx(0.6)
    assert rates[27] == pytest.approx(0.2)
    assert rates[39] == pytest.approx(0.0012971, abs=1e-7)
