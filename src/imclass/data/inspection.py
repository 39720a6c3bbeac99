"""What all decoded pictures together tell, and which of them are left out."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Int64, UInt8

from imclass.data.decode import Decoded
from imclass.data.duplicates import find_copies
from imclass.data.findings import Finding, find_left_out
from imclass.data.pictures import Thumbnails
from imclass.data.shards import Images
from imclass.data.split import find_imbalance

Pixels = UInt8[np.ndarray, "n c h w"]


class Inspection:
    """Collects what is found while pictures are decoded, then looks at all of them.

    `kept` are the rows of the table (annotations) that the policy does not leave out, `sizes` the original sizes of
    their pictures (width, height), `classes` those of all rows.
    """

    def __init__(self, table: pd.DataFrame, policy: Mapping[str, str]) -> None:
        self.kept = table
        self.classes = sorted(set(table.label))
        self.sizes: Int64[np.ndarray, "n 2"] = np.empty((0, 2), np.int64)
        self.findings: list[Finding] = []
        self._table = table
        self._policy = policy
        self._row_at = pd.Index(table.image, dtype=object)  # less than half of what a dictionary takes
        self._is_seen = np.zeros(len(table), bool)
        self._sizes = np.zeros((len(table), 2), np.int64)
        self._thumbnails: Thumbnails | None = None

    def watch(self, decoded: Iterable[Decoded]) -> Iterator[tuple[list[str], Pixels, list[bytes]]]:
        """Names, pixels and, where they are kept, files of each chunk, as they come."""
        for chunk in decoded:
            self.findings += chunk.findings
            if self._thumbnails is None:
                self._thumbnails = np.zeros((len(self._table), chunk.thumbnails.shape[1]), np.uint16)
            rows = self._row_at.get_indexer(chunk.names)
            # Not kept chunk by chunk: small objects here and there hold what other memory is freed around them.
            self._thumbnails[rows], self._sizes[rows], self._is_seen[rows] = chunk.thumbnails, chunk.sizes, True
            yield chunk.names, chunk.pixels, chunk.contents

    def finish(self, images: Images, *, images_per_class: int) -> None:
        """Look for copies and imbalance; `images` follow the table, with what was watched in its place."""
        assert self._thumbnails is not None
        rows, thumbnails = np.flatnonzero(self._is_seen), self._thumbnails[self._is_seen]
        self._thumbnails = None
        self.findings += find_copies(self._table, images, rows, thumbnails)
        is_kept = ~self._table.image.isin(find_left_out(self.findings, self._policy)).to_numpy()
        self.kept = self._table[is_kept]
        self.sizes = self._sizes[self._is_seen & is_kept]
        self.findings += find_imbalance(self.kept, self.classes, images_per_class=images_per_class)
