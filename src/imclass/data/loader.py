"""Packed images -> shuffled, augmented batches, as an iterable dataset for PyTorch's DataLoader.

An epoch is one permutation, gathered and augmented in chunks of many batches: 7 to 10 times the images/s of loaders
that fetch item by item.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import accumulate, count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from imclass.data.augment import Draws
from imclass.data.division import Division
from imclass.data.encoded import EncodedShards
from imclass.data.shards import Images

CHUNK_IMAGES = 1024  # gathered at once: large enough to hide the cost of a call, small enough for the cache
CHUNK_PIXELS = 2**20  # of each channel; augmenting takes some 16 bytes for each
SAMPLE_IMAGES = 2_000
SAMPLE_PIXELS = 2**21  # of each channel

Targets = Int64[Tensor, " n"] | Float[Tensor, "n classes"]  # labels, or the share of each class
Batch = tuple[UInt8[Tensor, "n c h w"], Targets]
Augment = Callable[..., UInt8[Tensor, "n c h w"]]
Mix = Callable[..., Batch]
Cut = Callable[..., UInt8[Tensor, "n c h w"]]


class ShuffledBatches(IterableDataset[Batch]):
    """Batches of one epoch after another, each in an order of its own that `seed` and `epoch` alone decide.

    `augment(images, draws=...)` is applied to whole chunks, then `mix(images, labels, seed=...)` to each batch. The
    last batch of an epoch may be smaller. Where `balanced`, every image of an epoch is drawn anew: first a class, each
    as likely, then one of its images. Batches lie on `device`; so do all images where they fit into half of its free
    memory. Of each batch come the images that `division` has for this process, by default all, and as all would be;
    no others are read, but where they are mixed. Of encoded images, worker processes make the chunks ahead, on the CPU;
    `cut(rows, draws=...)`, where given, is what reads them, and draws before `augment` does.
    """

    def __init__(
        self,
        images: Images,
        labels: Int64[np.ndarray, " n"],
        *,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: torch.device,
        balanced: bool = False,
        mix: Mix | None = None,
        division: Division | None = None,
        cut: Cut | None = None,
    ) -> None:
        movable = device.type == "cuda" and not isinstance(images, EncodedShards)
        fits = movable and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2
        self.images = _move(images, device) if fits else images
        self.labels = torch.from_numpy(labels).to(device)
        self.device = device
        self.batch_size = batch_size
        self.division = division or Division(batch_size)
        self.augment = augment
        self.seed = seed
        self.mix = mix
        self.cut = cut
        self.classes = _group_by_class(labels) if balanced else None
        self.epoch = 0
        self.first = 0
        images_per_chunk = min(CHUNK_IMAGES, CHUNK_PIXELS // (images.shape[2] * images.shape[3]))
        self.batches_per_chunk = max(1, images_per_chunk // batch_size)

    def start(self, epoch: int, *, first: int = 0) -> None:
        """Let the next iteration give the batches of `epoch` from number `first` on, as a whole epoch would."""
        self.epoch = epoch
        self.first = first

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.sizes)

    @cached_property
    def sizes(self) -> list[int]:
        """Images in each batch of an epoch. One alone would be none to batch norm: it joins the batch before."""
        full, rest = divmod(len(self.labels), self.batch_size)
        if rest == 1 and full and self.batch_size > 1:
            return [self.batch_size] * (full - 1) + [self.batch_size + 1]
        return [self.batch_size] * full + [rest] * (rest > 0)

    def sample_images(self) -> UInt8[Tensor, "n c h w"]:
        """At most 2,000 images, fewer large ones, from all over the set, the same at each call."""
        most = max(1, min(SAMPLE_IMAGES, SAMPLE_PIXELS // (self.images.shape[2] * self.images.shape[3])))
        return torch.as_tensor(self.images[:: -(-len(self.images) // most)]).cpu()

    def __iter__(self) -> Iterator[Batch]:
        together = self.batches_per_chunk
        sizes = [self.sizes[at : at + together] for at in range(0, len(self), together)]
        chunks = self._draw_order().split(list(map(sum, sizes)))
        first_chunk, skipped = divmod(self.first, together)
        numbers = range(first_chunk, len(chunks))

        def make(number: int) -> UInt8[Tensor, "n c h w"]:
            kept = self._list_kept(sizes[number])
            rows = chunks[number] if kept is None else chunks[number][kept]
            # A generator for each chunk, so that an epoch can go on from any of them.
            draws = Draws(self._make_generator(number + 1), len(chunks[number]), kept)
            images = self._gather(rows) if self.cut is None else self.cut(rows, draws=draws)
            return self.augment(images, draws=draws)

        made: Iterator[Any] = map(make, numbers)
        if isinstance(self.images, EncodedShards):
            ahead = self.images.make_ahead(make, numbers, most=max(map(len, chunks)))
            made = (torch.from_numpy(chunk).to(self.device) for chunk in ahead)
        for number, images in zip(numbers, made, strict=True):
            batches = self._cut_batches(images, chunks[number], sizes[number])
            if self.mix is not None:
                batches = map(self._mix, batches, count(number * together))
            yield from islice(batches, skipped, None)
            skipped = 0

    def list_rows(self, step: int) -> list[int]:
        """Rows of the images in the batch number `step` of the epoch."""
        return self._draw_order().split(self.sizes)[step].tolist()

    def _draw_order(self) -> Int64[Tensor, " n"]:
        generator = self._make_generator()
        if self.classes is None:
            return torch.randperm(len(self.labels), generator=generator)
        drawn = torch.randint(len(self.classes.counts), (len(self.labels),), generator=generator)
        place = torch.rand(len(drawn), dtype=torch.float64, generator=generator) * self.classes.counts[drawn]
        return self.classes.rows[self.classes.starts[drawn] + place.long()]

    def _list_kept(self, sizes: list[int]) -> Int64[Tensor, " n"] | None:
        """Places in a chunk, with batches of these sizes, of the images that are read; None: all."""
        if self.division.ranks == 1 or self.mix is not None:
            return None
        starts = accumulate(sizes, initial=0)
        return torch.cat([start + self._list_own(size) for start, size in zip(starts, sizes, strict=False)])

    def _list_own(self, size: int) -> Int64[Tensor, " n"]:
        """Places of this process's images in a batch of so many."""
        parts = self.division.cut(size)
        own = self.division.list_own(len(parts))
        return torch.tensor([at for part in own for at in parts[part]], dtype=torch.int64)

    def _cut_batches(
        self, images: UInt8[Tensor, "n c h w"], rows: Int64[Tensor, " all"], sizes: list[int]
    ) -> Iterator[Batch]:
        """A chunk's images that were kept, and the labels of its rows -> its batches."""
        kept = self._list_kept(sizes)
        if kept is not None:
            rows, sizes = rows[kept], [len(self._list_own(size)) for size in sizes]
        labels = self.labels[rows.to(self.device)]
        return zip(images.split(sizes), labels.split(sizes), strict=True)

    def _mix(self, whole: tuple[Tensor, Tensor], number: int) -> Batch:
        assert self.mix is not None
        # Chunks have the parts from 1 on.
        mixed, targets = self.mix(*whole, seed=derive_seed(self.seed, self.epoch, 0, number + 1))
        if self.division.ranks == 1:
            return mixed, targets
        own = self._list_own(len(mixed)).to(self.device)
        return mixed[own], targets[own]

    def _gather(self, rows: Int64[Tensor, " n"]) -> UInt8[Tensor, "n c h w"]:
        if isinstance(self.images, Tensor):
            return self.images.index_select(0, rows.to(self.device))
        images = torch.from_numpy(self.images[rows.numpy()])
        return images if isinstance(self.images, EncodedShards) else images.to(self.device, non_blocking=True)

    def _make_generator(self, part: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, part))


def load_batches(dataset: ShuffledBatches) -> DataLoader[Batch]:
    """A DataLoader that hands the dataset's batches on as they are."""
    # With a generator of its own, since it draws a number at the start of each iteration: from the global one, an epoch
    # that goes on in its middle would get another dropout.
    return DataLoader(dataset, batch_size=None, collate_fn=_keep, generator=torch.Generator())


def derive_seed(*numbers: int) -> int:
    """A seed that is another one for every other list of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Classes(NamedTuple):
    """Rows of images, class by class, and where in them each class that has any starts."""

    rows: Int64[Tensor, " n"]
    starts: Int64[Tensor, " k"]
    counts: Int64[Tensor, " k"]


def _group_by_class(labels: Int64[np.ndarray, " n"]) -> _Classes:
    _, starts, counts = np.unique(np.sort(labels), return_index=True, return_counts=True)
    return _Classes(*map(torch.from_numpy, (np.argsort(labels, kind="stable"), starts, counts)))


def _move(images: Images, device: torch.device) -> UInt8[Tensor, "n c h w"]:
    moved = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), CHUNK_IMAGES):
        chunk = slice(start, start + CHUNK_IMAGES)
        moved[chunk] = torch.from_numpy(images[chunk])
    return moved


def _keep(batch: Any) -> Any:
    return batch
