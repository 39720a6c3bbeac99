import hashlib
from typing import Any

import pandas as pd
import pytest

from imclass.data.annotations import SPLITS
from imclass.data.split import assign_splits, check_splits, count_splits, find_imbalance, find_shared_groups
from imclass.errors import InputError

FRACTIONS = {"val_fraction": 0.15, "test_fraction": 0.2}


def make_table(count: int, *, split: str = "", group: str = "", start: int = 0) -> pd.DataFrame:
    rows = [
        (f"{at:06}.png", f"class {at % 3}", split, group, hashlib.sha256(str(at).encode()).hexdigest())
        for at in range(start, start + count)
    ]
    return pd.DataFrame(rows, columns=["image", "label", "split", "group", "sha256"], dtype=object)


def assign(table: pd.DataFrame, *, seed: int = 0, **fractions: float) -> "pd.Series[Any]":
    return assign_splits(table, seed=seed, **{**FRACTIONS, **fractions})


def test_fractions_are_met_within_chance() -> None:
    counts = assign(make_table(20_000)).value_counts()
    for split, fraction in {"train": 0.65, "val": 0.15, "test": 0.2}.items():
        deviation = (20_000 * fraction * (1 - fraction)) ** 0.5
        assert abs(counts[split] - 20_000 * fraction) < 4 * deviation, split


def test_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    table = make_table(2_000)
    assert assign(table).equals(assign(table))
    same = (assign(table) == assign(table, seed=1)).mean()
    assert abs(same - (0.65**2 + 0.15**2 + 0.2**2)) < 0.05  # as two independent splits agree


def test_split_is_the_same_in_every_process_and_version() -> None:
    keys = [f"key {at}" for at in range(30)]
    table = pd.DataFrame({"split": "", "group": keys, "sha256": ""}, dtype=object)
    draws = [int(hashlib.sha256(f"5:{key}".encode()).hexdigest()[:16], 16) / 2**64 for key in keys]
    expected = ["test" if draw < 0.2 else "val" if draw < 0.35 else "train" for draw in draws]
    assert assign(table, seed=5).tolist() == expected
    assert [expected.count(split) for split in SPLITS] == [19, 1, 10]


def test_added_images_move_none() -> None:
    table = make_table(1_000)
    more = pd.concat([make_table(50, start=5_000), table, make_table(50, start=9_000)], ignore_index=True)
    assert assign(more)[50:1_050].tolist() == assign(table).tolist()


def test_order_and_index_of_the_rows_do_not_matter() -> None:
    table = make_table(300)
    shuffled = table.sample(frac=1, random_state=0)
    assert assign(shuffled).sort_index().equals(assign(table))


def test_name_and_label_do_not_matter() -> None:
    table = make_table(300)
    renamed = table.assign(image="other/" + table.image, label="x")
    assert assign(renamed).equals(assign(table))


def test_equal_content_shares_a_split() -> None:
    table = make_table(500)
    copies = table.assign(image="copy/" + table.image)
    both = assign(pd.concat([table, copies], ignore_index=True)).tolist()
    assert both[:500] == both[500:]


def test_groups_stay_together_and_spread() -> None:
    groups = [make_table(7, group=f"patient {at}", start=7 * at) for at in range(400)]
    table = pd.concat(groups, ignore_index=True)
    splits = assign(table).groupby(table.group).agg(["nunique", "first"])
    assert (splits["nunique"] == 1).all()
    assert set(splits["first"]) == set(SPLITS)


def test_images_without_group_are_drawn_as_if_there_were_none() -> None:
    table = make_table(300)
    mixed = pd.concat([table, make_table(9, group="g", start=1_000)], ignore_index=True)
    assert assign(mixed)[:300].tolist() == assign(table).tolist()


def test_larger_test_fraction_keeps_what_was_in_test() -> None:
    table = make_table(1_000)
    small, large = assign(table, test_fraction=0.1), assign(table, test_fraction=0.3)
    assert (large[small == "test"] == "test").all()
    assert (large == "test").sum() > 2 * (small == "test").sum()


@pytest.mark.parametrize("absent", ["val", "test"])
def test_fraction_of_zero_gives_no_image(absent: str) -> None:
    fractions = {**FRACTIONS, f"{absent}_fraction": 0.0}
    assert absent not in set(assign_splits(make_table(2_000), seed=0, **fractions))


def test_given_splits_are_kept() -> None:
    table = pd.concat([make_table(20, split=split, start=20 * at) for at, split in enumerate(SPLITS)])
    assert assign(table).equals(table.split)


def test_val_is_taken_from_train_alone() -> None:
    given = pd.concat(
        [make_table(10_000, split="train"), make_table(3_000, split="test", start=10_000)], ignore_index=True
    )
    split = assign(given)
    assert (split[given.split == "test"] == "test").all()
    assert set(split[given.split == "train"]) == {"train", "val"}
    assert abs((split == "val").sum() - 1_500) < 4 * (10_000 * 0.15 * 0.85) ** 0.5


def test_val_taken_from_train_keeps_groups_and_copies_together() -> None:
    groups = [make_table(5, split="train", group=f"g{at}", start=5 * at) for at in range(100)]
    table = pd.concat([*groups, make_table(100, split="train"), make_table(100, split="train")], ignore_index=True)
    split = assign(table)
    assert (split[:500].groupby(table.group[:500]).nunique() == 1).all()
    assert split[500:600].tolist() == split[600:].tolist()


def test_given_splits_are_not_changed_in_place() -> None:
    table = make_table(200, split="train")
    assign(table)
    assert set(table.split) == {"train"}


def test_counts_are_per_class_and_split() -> None:
    table = pd.DataFrame({"label": ["b", "a", "b", "b"], "split": ["test", "train", "test", "train"]})
    counts = count_splits(table)
    assert counts.to_dict("index") == {
        "a": {"train": 1, "val": 0, "test": 0},
        "b": {"train": 1, "val": 0, "test": 2},
    }
    assert list(counts.columns) == list(SPLITS)


def test_sound_splits_pass() -> None:
    check_splits(pd.concat([make_table(3, split=split) for split in SPLITS]))


@pytest.mark.parametrize("absent", SPLITS)
def test_empty_split_is_told(absent: str) -> None:
    table = pd.concat([make_table(3, split=split) for split in SPLITS if split != absent])
    with pytest.raises(InputError, match=f"\n  no image in split {absent}"):
        check_splits(table)


def test_classes_that_cannot_be_learnt_are_told_at_once() -> None:
    table = pd.concat([make_table(3, split=split) for split in SPLITS])
    table.loc[(table.label != "class 1") & (table.split == "train"), "split"] = "test"
    with pytest.raises(InputError) as caught:
        check_splits(table)
    assert str(caught.value).splitlines()[1:] == [
        "  class 'class 0': no image in split train (3 in the others)",
        "  class 'class 2': no image in split train (3 in the others)",
    ]


def test_groups_in_two_splits_are_found_on_the_copies_in_the_earlier_split() -> None:
    rows = [("a", "x", "train", "g"), ("b", "x", "val", "g"), ("c", "x", "test", "g"), ("d", "x", "train", "h")]
    table = pd.DataFrame([*rows, ("e", "y", "train", "")], columns=["image", "label", "split", "group"])
    assert [(found.file, found.detail) for found in find_shared_groups(table)] == [
        ("a", "group 'g' is in train and in test"),
        ("b", "group 'g' is in val and in test"),
    ]
    assert find_shared_groups(table.iloc[[0, 3, 4]]) == []


def make_counts(**counts: list[int]) -> pd.DataFrame:
    rows = [
        (label, split) for label, of in counts.items() for split, n in zip(SPLITS, of, strict=True) for _ in range(n)
    ]
    return pd.DataFrame(rows, columns=["label", "split"])


def test_classes_under_the_floor_are_found() -> None:
    table = make_counts(a=[5, 5, 5], b=[5, 0, 4])
    assert [str(found) for found in find_imbalance(table, images_per_class=5)] == [
        "class 'b': 0 images in val",
        "class 'b': 4 images in test",
    ]
    assert find_imbalance(table.iloc[:15], images_per_class=5) == []


def test_another_share_of_a_split_is_found_where_chance_does_not_explain_it() -> None:
    assert [
        str(found) for found in find_imbalance(make_counts(a=[700, 100, 100], b=[300, 40, 100]), images_per_class=1)
    ] == ["class 'a': 70.0% of train, 50.0% of test", "class 'b': 30.0% of train, 50.0% of test"]
    assert find_imbalance(make_counts(a=[700, 10, 70], b=[300, 8, 38]), images_per_class=1) == []
