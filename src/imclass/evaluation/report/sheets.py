"""Images -> one sheet of them all, as a data URI, of which a page shows pieces."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

COLUMNS = 20
MOST_PIXELS = 112  # a side; larger pictures are shrunk, and lose what nobody sees then
SMALL_PIXELS = 64  # a side; pictures up to this size keep every pixel, and show them
QUALITY = 80
LEVELS = 16  # of a saliency map


@dataclass(frozen=True)
class Sheet:
    """Number `at` lies in column at % columns, row at // columns; `width` and `height` are those of one image."""

    uri: str
    columns: int
    rows: int
    width: int
    height: int

    def place(self, at: int) -> str:
        """The position of an image as CSS knows it, in per cent of what is left beside one image."""
        row, column = divmod(at, self.columns)
        return f"{100 * column / max(self.columns - 1, 1):.4g}% {100 * row / max(self.rows - 1, 1):.4g}%"


def draw_sheet(images: UInt8[np.ndarray, "n c h w"]) -> Sheet:
    """Small images lie in the sheet without loss, others shrunk."""
    pixels = images.transpose(0, 2, 3, 1)
    small = max(pixels.shape[1:3]) <= SMALL_PIXELS
    mode = "L" if pixels.shape[3] == 1 else "RGB"
    pictures = [Image.fromarray(one.squeeze(2) if mode == "L" else np.ascontiguousarray(one)) for one in pixels]
    sheet, geometry = _lay_out(pictures, mode, pixels.shape[2], pixels.shape[1])
    options = {"format": "PNG", "optimize": True} if small else {"format": "WEBP", "quality": QUALITY, "method": 2}
    return Sheet(_encode(sheet, **options), *geometry)


def draw_saliency(maps: Float[np.ndarray, "n h w"]) -> Sheet:
    """Maps in 0..1 as see-through layers: the higher a value, the less of what lies below is seen."""
    levels = np.rint(maps * (LEVELS - 1)).astype(np.uint8) * (255 // (LEVELS - 1))
    sheet, geometry = _lay_out([Image.fromarray(one) for one in levels], "L", maps.shape[2], maps.shape[1])
    flat = Image.fromarray(np.asarray(sheet) // (256 // LEVELS)).convert("P")
    flat.putpalette([255, 72, 0] * LEVELS)
    return Sheet(_encode(flat, format="PNG", optimize=True, transparency=bytes(range(0, 256, 17))), *geometry)


def _lay_out(
    pictures: list[Image.Image], mode: str, width: int, height: int
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    share = min(1, MOST_PIXELS / max(width, height))
    size = max(1, round(width * share)), max(1, round(height * share))
    columns = min(COLUMNS, max(len(pictures), 1))
    rows = max(1, -(-len(pictures) // columns))
    sheet = Image.new(mode, (columns * size[0], rows * size[1]))
    for at, picture in enumerate(pictures):
        row, column = divmod(at, columns)
        fitted = picture if picture.size == size else picture.resize(size, Image.Resampling.BOX)
        sheet.paste(fitted, (column * size[0], row * size[1]))
    return sheet, (columns, rows, *size)


def _encode(picture: Image.Image, **options: object) -> str:
    stream = io.BytesIO()
    picture.save(stream, **options)  # type: ignore[arg-type]
    return f"data:image/{str(options['format']).lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
