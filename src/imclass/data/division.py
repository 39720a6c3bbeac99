"""A batch -> the parts in which it is computed, and which process computes which."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Division:
    """Batches of `batch_size` images, computed in `parts` (micro-batches) and shared out among `ranks`.

    This process has the number `rank`. Parts are equal to one image, and none is larger than those of a whole batch, so
    that a last and smaller batch has fewer. They are dealt in turn; those that do not go round are computed by all.
    What a part is does not depend on the number of ranks, as long as that divides `parts`.
    """

    batch_size: int
    parts: int = 1
    rank: int = 0
    ranks: int = 1

    def cut(self, count: int) -> list[range]:
        """The images of each part, by their places in a batch of `count`."""
        parts = -(-count * self.parts // self.batch_size)
        return [range(count * part // parts, count * (part + 1) // parts) for part in range(parts)]

    def count_dealt(self, parts: int) -> int:
        """How many of a batch's parts are dealt; all ranks compute the rest."""
        return parts - parts % self.ranks

    def list_own(self, parts: int) -> list[int]:
        """Numbers of the parts that this rank computes, in their order."""
        dealt = self.count_dealt(parts)
        return [*range(self.rank, dealt, self.ranks), *range(dealt, parts)]
