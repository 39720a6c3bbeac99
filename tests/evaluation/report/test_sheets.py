import base64
import io

import numpy as np
import pytest
from PIL import Image

from imclass.evaluation.report.sheets import MOST_PIXELS, Sheet, draw_saliency, draw_sheet


def decode(sheet: Sheet) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(sheet.uri.partition(",")[2])))


def cut(sheet: Sheet, at: int) -> np.ndarray:
    """The piece that CSS shows for the position of number `at`."""
    picture = np.asarray(decode(sheet))
    x, y = (float(part.removesuffix("%")) / 100 for part in sheet.place(at).split())
    left = round(x * (picture.shape[1] - sheet.width))
    top = round(y * (picture.shape[0] - sheet.height))
    return picture[top : top + sheet.height, left : left + sheet.width]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 7, 45])
def test_small_images_keep_every_pixel(channels: int, count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, channels, 5, 9), np.uint8)
    sheet = draw_sheet(images)
    for at in range(count):
        np.testing.assert_array_equal(cut(sheet, at).reshape(5, 9, channels), images[at].transpose(1, 2, 0))


def test_large_images_are_shrunk_and_keep_their_colours() -> None:
    images = np.zeros((3, 3, 100, 200), np.uint8)
    images[:, 0] = np.array([0, 120, 240])[:, None, None]
    sheet = draw_sheet(images)
    assert (sheet.width, sheet.height) == (MOST_PIXELS, MOST_PIXELS / 2)
    for at, red in enumerate([0, 120, 240]):
        assert cut(sheet, at)[..., 0].mean() == pytest.approx(red, abs=4)


def test_saliency_is_opaque_where_it_is_high() -> None:
    maps = np.zeros((2, 2, 2), np.float32)
    maps[1] = [[1.0, 0.5], [0.0, 1.0]]
    sheet = draw_saliency(maps)
    alpha = np.asarray(decode(sheet).convert("RGBA"))[..., 3]
    np.testing.assert_allclose(alpha / 255, np.concatenate(maps, axis=1), atol=1 / 30)
