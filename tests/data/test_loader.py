from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from imclass.data.augment import Draws, flip_and_shift
from imclass.data.loader import CHUNK_IMAGES, ShuffledBatches, derive_seed, load_batches

CPU = torch.device("cpu")


def keep(images: Tensor, *, draws: Draws) -> Tensor:  # noqa: ARG001
    return images


def make_dataset(count: int, batch_size: int, *, seed: int = 0) -> ShuffledBatches:
    """Image number n holds n in its first two pixels and has the label n."""
    numbers = np.arange(count)
    images = np.zeros((count, 1, 2, 2), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers // 256, numbers % 256
    return ShuffledBatches(images, numbers, batch_size=batch_size, augment=keep, seed=seed, device=CPU)


def read_numbers(images: Tensor) -> list[int]:
    high, low = images.long().flatten(1)[:, :2].T
    return (256 * high + low).tolist()


def read_epoch(dataset: ShuffledBatches, epoch: int = 0) -> list[int]:
    dataset.epoch = epoch
    return [label for _, labels in dataset for label in labels.tolist()]


@pytest.mark.parametrize("count", [1, 7, 64, 1_000, 2_500])
@pytest.mark.parametrize("batch_size", [1, 3, 64, 1_000, CHUNK_IMAGES + 1, 5_000])
def test_epoch_is_every_image_once_with_its_label(count: int, batch_size: int) -> None:
    dataset = make_dataset(count, batch_size)
    batches = list(dataset)
    alone = batch_size > 1 and count > 1 and count % batch_size == 1  # an image, which batch norm could not learn from
    assert len(batches) == len(dataset) == -(-count // batch_size) - alone
    assert all(len(labels) == batch_size for _, labels in batches[:-1])
    assert len(batches[-1][1]) == (count - 1) % batch_size + 1 + batch_size * alone
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(count))
    assert all(read_numbers(images) == labels.tolist() for images, labels in batches)


def test_order_is_shuffled_and_differs_by_epoch_and_seed() -> None:
    orders = [read_epoch(make_dataset(500, 64, seed=seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in [list(range(500)), *orders]}) == 5


def test_seed_and_epoch_alone_decide() -> None:
    dataset = make_dataset(500, 64)
    read_epoch(dataset, 3)
    torch.manual_seed(99)
    assert read_epoch(dataset, 7) == read_epoch(make_dataset(500, 64), 7)


def test_iterating_twice_gives_the_same_epoch() -> None:
    dataset = make_dataset(100, 16)
    assert [labels.tolist() for _, labels in dataset] == [labels.tolist() for _, labels in dataset]


def test_batch_size_does_not_change_the_order() -> None:
    assert read_epoch(make_dataset(3_000, 7)) == read_epoch(make_dataset(3_000, 3_000))


def test_augmentation_gets_the_images_and_repeats_with_the_seed() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1_500, 3, 4, 4), np.uint8)
    labels = np.arange(1_500)
    augment = partial(flip_and_shift, flip=True, shift=1)
    first, again = (
        list(ShuffledBatches(images, labels, batch_size=64, augment=augment, seed=5, device=CPU)) for _ in range(2)
    )
    for (ours, our_labels), (theirs, their_labels) in zip(first, again, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(our_labels, their_labels)
    assert not torch.equal(first[0][0], torch.from_numpy(images)[first[0][1]])


@pytest.mark.parametrize(("batch_size", "chunks"), [(1, [1024, 976]), (100, [1000, 1000]), (1_500, [1_500, 500])])
def test_augmentation_is_called_on_chunks_of_whole_batches(batch_size: int, chunks: list[int]) -> None:
    dataset = make_dataset(2_000, batch_size)
    called = []

    def count(images: Tensor, *, draws: Draws) -> Tensor:  # noqa: ARG001
        called.append(len(images))
        return images

    dataset.augment = count
    assert sum(len(labels) for _, labels in dataset) == 2_000
    assert called == chunks


def test_data_loader_hands_batches_on_unchanged() -> None:
    dataset = make_dataset(200, 32)
    loader = load_batches(dataset)
    assert len(loader) == len(dataset) == 7
    for (images, labels), (ours, our_labels) in zip(loader, dataset, strict=True):
        assert torch.equal(images, ours)
        assert torch.equal(labels, our_labels)
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)


def test_sample_is_spread_over_the_set() -> None:
    assert read_numbers(make_dataset(7, 2).sample_images()) == list(range(7))
    numbers = read_numbers(make_dataset(9_001, 64).sample_images())
    assert numbers == list(range(0, 9_001, 5))
    assert len(numbers) <= 2_000


def test_seeds_of_epochs_are_distinct_and_fit_a_generator() -> None:
    seeds = {derive_seed(seed, epoch) for seed in (0, 1, 2**63 - 1) for epoch in range(1_000)}
    assert len(seeds) == 3_000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_balanced_epochs_draw_every_class_as_often_and_its_images_alike() -> None:
    numbers = np.arange(1_000)
    labels = np.where(numbers < 50, 0, np.where(numbers < 350, 2, 3))  # and none of class 1
    images = np.zeros((1_000, 1, 2, 2), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers // 256, numbers % 256
    shuffled = np.random.default_rng(0).permutation(1_000)
    dataset = ShuffledBatches(
        images[shuffled], labels[shuffled], batch_size=64, augment=keep, seed=0, device=CPU, balanced=True
    )
    drawn = []
    for epoch in range(30):
        dataset.start(epoch)
        for batch, batch_labels in dataset:
            drawn += read_numbers(batch)
            assert batch_labels.tolist() == [int(labels[number]) for number in read_numbers(batch)]
    counts = np.bincount(drawn, minlength=1_000)
    for first, last in (0, 50), (50, 350), (350, 1_000):
        mean = 10_000 / (last - first)
        assert abs(counts[first:last].sum() - 10_000) < 4 * (30_000 * 2 / 9) ** 0.5
        assert np.abs(counts[first:last] - mean).max() < 5 * mean**0.5


def test_balanced_batches_name_their_rows() -> None:
    dataset = ShuffledBatches(
        np.arange(256, dtype=np.uint8).reshape(64, 1, 2, 2),
        np.arange(64) % 3,
        batch_size=10,
        augment=keep,
        seed=0,
        device=CPU,
        balanced=True,
    )
    for step, (images, _) in enumerate(dataset):
        assert (images[:, 0, 0, 0] // 4).tolist() == dataset.list_rows(step)
