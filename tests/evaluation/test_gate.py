import pytest

from imclass.errors import InputError
from imclass.evaluation.gate import Verdict, check_verdict, judge
from imclass.evaluation.predictions import Decision


def decide(right: int, wrong: int) -> dict[str, Decision]:
    """So many images of a and as many of b, where the mistakes are among those of b."""
    count = right + wrong
    return {f"{label}{at}": Decision(label, "a" if at < wrong else label) for label in "ab" for at in range(count)}


def judge_plainly(
    decisions: dict[str, Decision], accepted: dict[str, Decision], *, accuracy: float = 0.0, class_recall: float = 0.0
) -> Verdict:
    return judge(decisions, accepted, ["a", "b"], accuracy=accuracy, class_recall=class_recall)


def test_floors_of_zero_and_no_accepted_model_let_everything_pass() -> None:
    verdict = judge_plainly(decide(0, 10), {})
    check_verdict(verdict)
    assert verdict.found["verdict"] == "passed"
    assert verdict.note == "no model accepted yet: not compared"


def test_floors_are_held_against_the_lower_ends() -> None:
    decisions = decide(95, 5)  # accuracy 0.975, lower end 0.9428; recall of b 0.95, lower end 0.8882
    check_verdict(judge_plainly(decisions, {}, accuracy=0.94, class_recall=0.88))
    verdict = judge_plainly(decisions, {}, accuracy=0.95, class_recall=0.9)
    with pytest.raises(InputError) as caught:
        check_verdict(verdict)
    assert str(caught.value) == (
        "this model is not to be exported\n"
        "  accuracy 0.9750 (95 % interval 0.9428 to 0.9893, 200 images): expected a lower end of at least 0.95 "
        "(gate.accuracy)\n"
        "  class 'b': recall 0.9500 (95 % interval 0.8882 to 0.9785, 100 images): expected a lower end of at least 0.9 "
        "(gate.class_recall)"
    )
    assert verdict.found["verdict"] == "failed"
    assert len(verdict.found["reasons"]) == 2


def test_a_class_without_a_test_image_is_not_shown_to_be_recognised() -> None:
    verdict = judge(decide(20, 0), {}, ["a", "b", "c"], accuracy=0.0, class_recall=0.1)
    assert ["class 'c'" in reason for reason in verdict.reasons] == [True]


@pytest.mark.parametrize(("wrong", "passes"), [(8, True), (9, True), (12, True), (13, False), (30, False)])
def test_only_a_model_worse_beyond_chance_than_the_accepted_one_fails(wrong: int, passes: bool) -> None:
    verdict = judge_plainly(decide(100 - wrong, wrong), decide(91, 9))  # those newly wrong, none newly right
    assert (not verdict.reasons) == passes
    if not passes:
        assert verdict.reasons[0].startswith("worse than the accepted model: accuracy -0.")


def test_other_test_images_are_told_and_do_not_count() -> None:
    elsewhere = judge_plainly(decide(5, 5), {"elsewhere": Decision("a", "a")})
    assert elsewhere.note == "no test image in common with the accepted model: not compared"
    partly = judge_plainly(decide(5, 5), decide(9, 0))
    assert partly.note == "the test images differ: left out 2 only after"
    assert partly.found["checks"][2]["images"] == 18
