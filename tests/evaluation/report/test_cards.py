import numpy as np

from imclass.evaluation.report.cards import MOST_MISTAKES, choose_shown, choose_width, describe_cards


def test_mistakes_come_first_the_surest_at_the_top() -> None:
    labels = np.array([0, 0, 1, 1, 0])
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.99, 0.01], [0.6, 0.4]])
    assert choose_shown(labels, probabilities).tolist() == [3, 1, 4, 2, 0]


def test_too_many_mistakes_leave_one_of_each_confusion() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, 4_000)
    probabilities = rng.dirichlet(np.ones(12), 4_000)
    probabilities[labels == 3] = 0.5 * probabilities[labels == 3] + 0.5 / 12  # never among the surest
    predicted = probabilities.argmax(axis=1)
    shown = choose_shown(labels, probabilities)
    wrong = shown[predicted[shown] != labels[shown]]
    assert len(wrong) == MOST_MISTAKES
    assert len(set(shown.tolist())) == len(shown)
    true_probability = probabilities[wrong, labels[wrong]]
    assert (np.diff(true_probability) >= 0).all()
    surest = np.argsort(np.where(predicted != labels, probabilities[np.arange(4_000), labels], 2))
    assert set(surest[: MOST_MISTAKES // 2]) <= set(wrong)
    assert {*zip(labels[wrong], predicted[wrong], strict=True)} == {
        (true, taken) for true, taken in zip(labels, predicted, strict=True) if true != taken
    }


def test_card_names_the_likeliest_classes_and_the_true_one() -> None:
    probabilities = np.array([[0.5, 0.3, 0.15, 0.05]])
    cards, firsts = describe_cards(np.array([0]), np.array([3]), probabilities, ["x.png"], list("abcd"))
    assert cards[0]["bars"] == [("a", 0.5, False), ("b", 0.3, False), ("d", 0.05, True)]
    assert (cards[0]["name"], cards[0]["wrong"]) == ("x.png", True)
    assert firsts == {(3, 0): 0}


def test_small_images_are_enlarged_by_a_whole_number() -> None:
    assert [choose_width(side, side, 96) for side in (8, 28, 64, 224)] == [96, 84, 64, 96]
    assert choose_width(100, 200, 96) == 48
