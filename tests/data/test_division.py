from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch

from imclass.data.augment import augment
from imclass.data.division import Division
from imclass.data.loader import ShuffledBatches
from imclass.data.mix import build_mix

VIEWS: dict[str, Any] = {"flip": True, "shift": 2, "rotate": 10.0, "crop": 0.6, "color": 0.2, "erase": 0.5}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("parts", [4, 6, 12, 20])
@pytest.mark.parametrize("count", [1, 2, 5, 31, 63, 64, 65])
def test_every_image_is_in_one_part_and_each_part_is_computed_once_or_by_all(
    ranks: int, parts: int, count: int
) -> None:
    divisions = [Division(64, parts, rank, ranks) for rank in range(ranks)]
    cut = divisions[0].cut(count)
    assert list(chain(*cut)) == list(range(count))
    assert max(map(len, cut)) <= -(-64 // parts)
    assert count != 64 or len(cut) == parts
    dealt = divisions[0].count_dealt(len(cut))
    owners = [[rank for rank in range(ranks) if at in divisions[rank].list_own(len(cut))] for at in range(len(cut))]
    assert owners == [[at % ranks] for at in range(dealt)] + [list(range(ranks))] * (len(cut) - dealt)
    assert len(cut) - dealt < ranks


@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_ranks_together_get_the_batches_of_one_process(mix: str) -> None:
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (107, 3, 8, 8), np.uint8)
    labels = chance.integers(0, 5, 107)

    def load(division: Division) -> ShuffledBatches:
        return ShuffledBatches(
            images,
            labels,
            batch_size=16,
            augment=partial(augment, **VIEWS),
            seed=1,
            device=torch.device("cpu"),
            mix=None if mix == "none" else build_mix(mix, 5),
            division=division,
        )

    divisions = [Division(16, 6, rank, 3) for rank in range(3)]
    for whole, *shares in zip(load(Division(16)), *map(load, divisions), strict=True):
        parts = divisions[0].cut(len(whole[0]))
        for division, share in zip(divisions, shares, strict=True):
            own = [at for part in division.list_own(len(parts)) for at in parts[part]]
            assert torch.equal(share[0], whole[0][own])
            assert torch.equal(share[1], whole[1][own])


def test_a_rank_reads_no_images_but_its_own() -> None:
    read: list[int] = []

    class Watched(np.ndarray):
        def __getitem__(self, rows: Any) -> Any:
            if isinstance(rows, np.ndarray):
                read.extend(rows.tolist())
            return np.asarray(self)[rows]

    images = np.zeros((120, 1, 4, 4), np.uint8).view(Watched)
    for rank in range(2):
        dataset = ShuffledBatches(
            images,
            np.zeros(120, np.int64),
            batch_size=12,
            augment=lambda images, draws: images,
            seed=0,
            device=torch.device("cpu"),
            division=Division(12, 2, rank, 2),
        )
        assert sum(len(labels) for _, labels in dataset) == 60
    assert sorted(read) == list(range(120))
