import math

import numpy as np
import pytest
from scipy import stats

from imclass.errors import InputError
from imclass.evaluation.comparison import (
    compare_decisions,
    count_images_needed,
    describe_unshared,
    estimate_difference,
    find_shared,
    sum_below,
)
from imclass.evaluation.predictions import Decision


def decide(*pairs: str) -> dict[str, Decision]:
    """Images 0, 1, ... by pairs of letters: what each is and what it is taken for."""
    return {str(at): Decision(pair[0], pair[1]) for at, pair in enumerate(pairs)}


@pytest.mark.parametrize(("hits", "total"), [(0, 0), (0, 5), (3, 10), (5, 5), (480, 1_000), (10_000, 20_500)])
def test_chance_of_fewer_is_that_of_a_coin(hits: int, total: int) -> None:
    coin = stats.binom(total, 0.5)
    assert sum_below(hits, total) == pytest.approx(coin.cdf(hits) - coin.pmf(hits) / 2, rel=1e-9)


def test_the_interval_of_a_difference_is_that_of_resampled_images() -> None:
    changes = np.repeat([1, -1, 0], [60, 30, 910])
    drawn = np.random.default_rng(1).choice(changes, (4_000, 1_000)).mean(axis=1)
    found = estimate_difference(60, 30, 1_000)
    assert found.value == pytest.approx(0.03)
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.002)


@pytest.mark.parametrize(("gained", "lost"), [(0.0, 0.0), (0.02, 0.0), (0.05, 0.03)])
def test_it_holds_the_true_difference_about_as_often_as_it_says(gained: float, lost: float) -> None:
    chance = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        up, down, _ = chance.multinomial(300, [gained, lost, 1 - gained - lost]).tolist()
        estimate = estimate_difference(up, down, 300)
        covered += estimate.low <= gained - lost <= estimate.high
    assert 0.92 <= covered / 200 <= 1


def test_a_difference_is_called_one_at_most_as_often_as_chance_allows() -> None:
    changed = stats.binom(40, 0.5).pmf(range(41))
    wrong_alarms = sum(
        share for hits, share in enumerate(changed) if 2 * min(sum_below(hits, 40), sum_below(40 - hits, 40)) < 0.05
    )
    assert 0.03 < wrong_alarms < 0.055


def test_images_needed_find_the_difference_four_times_in_five() -> None:
    changed, difference = 0.1, 0.03
    count = count_images_needed(changed, difference)
    chance = np.random.default_rng(0)
    gained, lost = (changed + difference) / 2, (changed - difference) / 2
    found = 0
    for _ in range(1_000):
        up, down, _ = chance.multinomial(count, [gained, lost, 1 - changed]).tolist()
        found += 2 * sum_below(min(up, down), up + down) < 0.05
    assert 0.76 < found / 1_000 < 0.84


def test_a_comparison_by_hand() -> None:
    before = decide("aa", "ab", "ab", "bb", "ba", "cc")
    after = decide("aa", "aa", "aa", "ba", "bc", "cc")
    comparison = compare_decisions(before, after)
    assert comparison.newly_right == ["1", "2"]
    assert comparison.newly_wrong == ["3"]
    assert comparison.difference.value == pytest.approx(1 / 6)
    assert [comparison.before.value, comparison.after.value] == pytest.approx([3 / 6, 4 / 6])
    assert comparison.p_worse == pytest.approx((1 + 3) / 8 + 3 / 16)  # of 3 coins fewer than 2 heads, and half of 2
    assert comparison.p_value == pytest.approx(2 * (1 / 8 + 3 / 16))
    assert comparison.verdict == "not distinguishable"
    assert [(one.images, one.right_before, one.right_after) for one in comparison.classes.values()] == [
        (3, 1, 3),
        (2, 1, 0),
        (1, 1, 1),
    ]
    assert comparison.images_needed == math.ceil(
        (1.959964 * math.sqrt(1 / 2) + 0.841621 * math.sqrt(1 / 2 - 1 / 36)) ** 2 * 36
    )


def test_verdicts() -> None:
    bad, good = decide(*["ab"] * 20, "aa"), decide(*["aa"] * 21)
    assert compare_decisions(bad, good).verdict == "better"
    assert compare_decisions(good, bad).verdict == "worse"
    equal = compare_decisions(good, good)
    assert (equal.verdict, equal.images_needed, equal.p_value) == ("not distinguishable", None, 1.0)
    assert equal.difference.low < 0 < equal.difference.high, "no image changed: that is no proof of none"


def test_images_of_one_side_only_and_with_another_label_are_left_out_and_told() -> None:
    before = decide("aa", "bb", "aa", "aa")
    after = decide("aa", "aa", "ab") | {"new": Decision("a", "a")}
    assert find_shared(before, after) == ["0", "2"]
    assert describe_unshared(before, after) == (
        "the test images differ: left out 1 only before, 1 only after, 1 with another label"
    )
    assert describe_unshared(before, before) == ""
    assert compare_decisions(before, after).newly_wrong == ["2"]
    with pytest.raises(InputError, match="no test image in common"):
        compare_decisions(before, {"new": Decision("a", "a")})
