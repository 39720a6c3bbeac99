import numpy as np

from imclass.training.history import Epoch
from imclass.training.review import describe_best, find_doubts

FALLING = [Epoch(1, 2.0, 0.3, 1.5, 1.4, 0.4, 0.1), Epoch(2, 1.0, 0.6, 0.9, 0.8, 0.7, 0.05)]
CLASSES = ["a", "b", "c"]


def test_nothing_is_said_where_all_is_well() -> None:
    assert find_doubts(FALLING, np.array([0, 1, 2]), np.array([2, 1, 0]), CLASSES, batches_per_epoch=60) == []
    assert find_doubts(FALLING[:1], np.array([0, 1]), np.array([0, 1]), CLASSES, batches_per_epoch=120) == []


def test_a_loss_that_never_fell_is_told() -> None:
    (doubt,) = find_doubts(FALLING[::-1], np.array([0, 1, 2]), np.array([0, 1, 2]), CLASSES, batches_per_epoch=60)
    assert doubt == "the training loss never fell below that of the first epoch"


def test_a_class_never_predicted_is_told_but_not_one_without_images() -> None:
    (doubt,) = find_doubts(FALLING, np.array([0, 1, 1]), np.array([0, 0, 0]), CLASSES, batches_per_epoch=60)
    assert doubt == "never predicted on the validation split: 'b'"


def test_a_validation_split_of_one_class_is_told() -> None:
    (doubt,) = find_doubts(FALLING, np.array([1, 1]), np.array([1, 1]), CLASSES, batches_per_epoch=60)
    assert doubt == "the validation split holds one class only, 'b'"


def test_a_training_that_has_hardly_begun_is_told() -> None:
    (doubt,) = find_doubts(FALLING, np.array([0, 1, 2]), np.array([0, 1, 2]), CLASSES, batches_per_epoch=1)
    assert doubt == "only 2 steps of training: a lower batch_size or more epochs give more"


def test_of_epochs_with_equal_scores_the_later_is_the_one_that_is_kept() -> None:
    losses = (0.8, 0.9), (0.9, 0.6), (0.9, 0.6), (1.0, 0.7)
    equal = [Epoch(at, 1.0, 0.6, raw, brier, 0.7, 0.05) for at, (raw, brier) in enumerate(losses, 1)]
    assert describe_best(equal) == "kept epoch 3 of 4: val Brier score 0.6000, loss 0.9000, accuracy 0.7000"
