import numpy as np
import pytest
import torch
from torch import Tensor

from imclass.data.loader import ShuffledBatches
from imclass.data.mix import build_mix

LABELS = torch.arange(8) % 3


def make_images() -> Tensor:
    """Image number n is 30 n everywhere."""
    return (30 * torch.arange(8, dtype=torch.uint8)).view(8, 1, 1, 1).expand(-1, 1, 10, 10).clone()


def mix(name: str, seed: int) -> tuple[Tensor, Tensor]:
    images, targets = build_mix(name, 3)(make_images(), LABELS, seed=seed)
    return images, targets


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("seed", range(5))
def test_targets_say_how_much_of_which_image_there_is(name: str, seed: int) -> None:
    images, targets = mix(name, seed)
    assert images.dtype == torch.uint8
    one_hot = torch.nn.functional.one_hot(LABELS, 3).float()
    # Both blend each image with the one before it.
    own = (one_hot[1] @ targets[1]).item()  # image 1 and image 0 are of different classes
    torch.testing.assert_close(targets, own * one_hot + (1 - own) * one_hot.roll(1, 0))
    levels = 30 * torch.arange(8.0)
    if name == "mixup":
        expected = own * levels + (1 - own) * levels.roll(1)
        torch.testing.assert_close(images.float(), expected.view(8, 1, 1, 1).expand_as(images), atol=0.51, rtol=0)
    else:
        kept = (images == make_images()).float().mean((1, 2, 3))
        torch.testing.assert_close(kept, torch.full((8,), own))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_seed_alone_decides_and_leaves_the_global_generator(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = mix(name, 3), mix(name, 3), mix(name, 4)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_an_epoch_that_goes_on_in_its_middle_is_mixed_as_a_whole_one() -> None:
    dataset = ShuffledBatches(
        np.random.default_rng(0).integers(0, 256, (50, 1, 10, 10)).astype(np.uint8),
        np.arange(50) % 3,
        batch_size=8,
        augment=lambda images, draws: images,
        seed=0,
        device=torch.device("cpu"),
        mix=build_mix("mixup", 3),
    )
    whole = list(dataset)
    dataset.start(0, first=4)
    rest = list(dataset)
    assert len(rest) == len(whole) - 4
    for ours, theirs in zip(rest, whole[4:], strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    assert not torch.equal(whole[0][1], whole[1][1])
