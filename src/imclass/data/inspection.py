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
        self._row_at = {image: at for at, image in enumerate(table.image)}
        self._rows: list[int] = []
        self._sizes: list[Int64[np.ndarray, "n 2"]] = []
        self._thumbnails: list[Thumbnails] = []

    def watch(self, decoded: Iterable[Decoded]) -> Iterator[tuple[list[str], Pixels, list[bytes]]]:
        """Names, pixels and, where they are kept, files of each chunk, as they come."""
        for chunk in decoded:
            self.findings += chunk.findings
            self._rows += [self._row_at[name] for name in chunk.names]
            self._sizes.append(chunk.sizes)
            self._thumbnails.append(chunk.thumbnails)
            yield chunk.names, chunk.pixels, chunk.contents

    def finish(self, images: Images, *, images_per_class: int) -> None:
        """Look for copies and imbalance; `images` follow the table, with what was watched in its place."""
        order = np.argsort(self._rows)
        rows = np.array(self._rows, np.int64)[order]
        self.findings += find_copies(self._table, images, rows, np.concatenate(self._thumbnails)[order])
        is_kept = ~self._table.image.isin(find_left_out(self.findings, self._policy)).to_numpy()
        self.kept = self._table[is_kept]
        self.sizes = np.concatenate(self._sizes)[order][is_kept[rows]]
        self.findings += find_imbalance(self.kept, self.classes, images_per_class=images_per_class)
