"""Pictures -> files of them."""

import io
from typing import Any

from PIL import Image


def encode_picture(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file, by Pillow's writer."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()
