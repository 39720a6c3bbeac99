import numpy as np
import pytest

from imclass.data.shards import SHARD_BYTES, SHARD_IMAGES, Shards, cut_shards

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 2, 5), np.uint8)


@pytest.fixture
def shards() -> Shards:
    return Shards(np.split(IMAGES, [1, 2, 20, 39]))


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        slice(None),
        slice(18, 25),
        slice(None, None, 7),
        slice(5, 5),
        [39, 0, 20, 20, 1],
        np.array([[3, 2], [30, 31]]),
        np.arange(40) % 3 == 0,
        np.random.default_rng(1).permutation(40),
    ],
)
def test_any_index_gives_what_one_array_would(shards: Shards, key: object) -> None:
    np.testing.assert_array_equal(shards[key], IMAGES[key])  # type: ignore[call-overload]
    assert shards[key].shape == IMAGES[key].shape  # type: ignore[call-overload]


def test_shards_are_an_array_to_numpy(shards: Shards) -> None:
    assert (len(shards), shards.shape, shards.dtype, shards.nbytes) == (40, IMAGES.shape, IMAGES.dtype, IMAGES.nbytes)
    np.testing.assert_array_equal(shards, IMAGES)
    with pytest.raises(IndexError):
        shards[40]


def list_shards(names: list[str]) -> set[tuple[str, ...]]:
    cuts = list(cut_shards(names, image_bytes=784))
    assert [name for cut in cuts for name in names[cut]] == names
    return {tuple(names[cut]) for cut in cuts}


def test_shards_have_the_given_size_on_average_and_large_images_so_many_each() -> None:
    names = [f"{number:06}.png" for number in range(200_000)]
    assert 0.8 < 200_000 * 784 / len(list_shards(names)) / SHARD_BYTES < 1.2
    large = list(cut_shards(names[:20_000], image_bytes=SHARD_BYTES))
    assert 0.8 < 20_000 / len(large) / SHARD_IMAGES < 1.2


def test_an_image_more_or_less_changes_no_shard_but_those_beside_it() -> None:
    names = [f"{number:06}.png" for number in range(20_000)]
    before = list_shards(names)
    for at in range(0, 20_000, 997):
        more, less = list_shards([*names[:at], f"{at:06}.a", *names[at:]]), list_shards(names[:at] + names[at + 1 :])
        assert max(len(before - more), len(more - before), len(before - less), len(less - before)) <= 3
        assert max(map(len, before)) < 4 * min(map(len, before))
