from pathlib import Path

import numpy as np
import pytest

from imclass.data.sizes import read_sizes, write_sizes
from imclass.errors import InputError


def test_sizes_are_counted(tmp_path: Path) -> None:
    write_sizes(tmp_path / "sizes.csv", np.array([[20, 10], [9, 30], [20, 10], [20, 9]]))
    assert read_sizes(tmp_path / "sizes.csv").tolist() == [[9, 30, 1], [20, 9, 1], [20, 10, 2]]
    write_sizes(tmp_path / "sizes.csv", np.zeros((0, 2), np.int64))
    with pytest.raises(InputError, match="at least one size"):
        read_sizes(tmp_path / "sizes.csv")
