import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imclass.data.images import fit_image
from imclass.export.resize import Resize
from imclass.params import FitParams

SIDES = st.integers(1, 90)


@settings(max_examples=400, deadline=None)
@given(
    to=st.builds(
        FitParams,
        channels=st.sampled_from([1, 3]),
        height=st.integers(1, 40),
        width=st.integers(1, 40),
        fit=st.sampled_from(["crop", "pad", "stretch"]),
        background=st.integers(0, 255),
    ),
    shape=st.tuples(st.sampled_from([1, 3]), SIDES, SIDES),
    seed=st.integers(0, 2**32),
)
def test_pixels_are_those_of_build_bit_for_bit(to: FitParams, shape: tuple[int, int, int], seed: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    pictures = torch.from_numpy(picture.transpose(1, 2, 0)[None].copy())
    np.testing.assert_array_equal(Resize(to.model_dump())(pictures)[0].numpy(), fit_image(picture, to))
