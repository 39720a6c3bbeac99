"""Bytes of an image file -> uint8 pixels C H W of a fixed shape.

A user's file is decoded by Pillow, but JPEG by libjpeg-turbo in strict mode, which refuses the damage that every common
decoder fills in silently, and plain PNG by OpenCV, in a third of the time; the pixels are Pillow's in both cases.
OpenCV also refuses PNG of any kind with missing pixels, which Pillow fills in. Each kind of file has one treatment:

    grey, 1 bit      0 .. 255                       palette          its colours
    16-bit grey      divided by 257, rounded        alpha            laid over a background
    CMYK             Pillow's conversion to RGB     EXIF rotation    applied
"""

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from imclass.errors import InputError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_JPEG_SIDE = 65_500  # of libjpeg
MAX_PIXELS = 64_000_000  # an RGB picture of this size takes 192 MB
EXIF_ORIENTATION = 0x0112
EXIF_KEYS = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # where Pillow's getexif looks
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_HEADER = struct.Struct(">16xIIBB")  # from the start of the file: width, height, bits of a sample, kind of pixels
PNG_CHANNELS = {0: 1, 2: 3}  # of the kinds of pixels that need no conversion: grey and RGB
PNG_PLAIN_CHUNKS = {b"IHDR", b"IDAT", b"IEND", b"pHYs", b"tIME", b"gAMA", b"cHRM", b"sRGB", b"iCCP"}

SUFFIXES = {  # of the names of files, for each format that is read
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "PPM": (".pbm", ".pgm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
ALL_SUFFIXES = tuple(chain(*SUFFIXES.values()))
CONVERTED = {"CMYK": "CMYK", "P": "palette", "PA": "palette", "YCbCr": "YCbCr"}  # by Pillow's name of the mode
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N")

Pixels = UInt8[np.ndarray, "c h w"]


class Picture(NamedTuple):
    """The pixels of a file, the format that it has, and what else than grey or RGB, upright, was in it."""

    pixels: Pixels
    format: str
    converted: tuple[str, ...] = ()


@runtime_checkable
class Fit(Protocol):
    """The shape that images are brought to; `fit` is crop, pad or stretch."""

    @property
    def channels(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def fit(self) -> str: ...
    @property
    def background(self) -> int: ...


def decode_image(name: str, content: bytes, *, background: int = 255) -> Pixels:
    """The picture in a file, upright, at its own size, with 1 channel (grey) or 3 (RGB).

    `background` (0 to 255) lies behind transparent pixels.
    Raises InputError with the name for a file that is not a sound picture of one frame.
    """
    return decode_picture(name, content, background=background).pixels


def has_other_suffix(name: str, format: str) -> bool:
    """Whether the file's name ends as that of another format that is read here."""
    name = name.lower()
    return not name.endswith(SUFFIXES[format]) and name.endswith(ALL_SUFFIXES)


def decode_picture(name: str, content: bytes, *, background: int = 255) -> Picture:
    """As `decode_image`, with what the file was like."""
    try:
        return _decode(content, background)
    except UnidentifiedImageError:
        found = f"not an image of a known format ({', '.join(FORMATS)})" if content else "an empty file"
        raise InputError(f"{name}: {found}") from None
    # Pillow raises what its parsers raise on damaged bytes: nearly everything.
    except Exception as error:
        raise InputError(f"{name}: not a sound image: {error}") from None


def fit_image(pixels: Pixels, to: Fit) -> UInt8[np.ndarray, "c2 h2 w2"]:
    """Resize with antialiasing (bilinear) and convert to the channels, height and width of `to`.

    crop: the shorter side fits and the middle stays. pad: the longer side fits, `background` beside it. stretch: both.
    RGB becomes grey by ITU-R 601-2 luma.
    """
    if pixels.shape == (to.channels, to.height, to.width):
        return pixels
    return _to_array(_fit(_to_image(pixels), to))


def fit_part(pixels: Pixels, to: Fit, part: Sequence[float]) -> UInt8[np.ndarray, "c2 h2 w2"]:
    """A part of what `fit_image` gives, at the size of the whole and cut out of the picture at its own size.

    `part` is left, top, right and bottom, 0..1 of the fitted image.
    """
    image = _convert(_to_image(pixels), to)
    left, top, width, height = _place(image, to)
    across = _map_axis(part[0], part[2], to.width, image.width, left, width)
    down = _map_axis(part[1], part[3], to.height, image.height, top, height)
    size = across.end - across.start, down.end - down.start
    box = across.low, down.low, across.high, down.high
    whole = (to.width, to.height)
    if size == whole:
        return _to_array(image.resize(size, Image.Resampling.BILINEAR, box))
    padded = Image.new(image.mode, whole, (to.background,) * to.channels if to.channels > 1 else to.background)
    if min(size) > 0:
        padded.paste(image.resize(size, Image.Resampling.BILINEAR, box), (across.start, down.start))
    return _to_array(padded)


def encode_jpeg(name: str, pixels: Pixels, *, quality: int) -> bytes:
    """A JPEG file of a picture at its own size. Raises InputError with the name where it is too long for that."""
    if max(pixels.shape[1:]) > MAX_JPEG_SIDE:
        raise InputError(f"{name}: expected at most {MAX_JPEG_SIDE:,} pixels a side for a JPEG, found {pixels.shape}")
    kind = {"colorspace": "GRAY", "colorsubsampling": "Gray"} if len(pixels) == 1 else {"colorsubsampling": "420"}
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels.transpose(1, 2, 0)), quality, **kind))


def decode_and_fit(name: str, content: bytes, to: Fit) -> Pixels:
    """The picture in a file, brought to the shape of `to`."""
    return fit_image(decode_image(name, content, background=to.background), to)


def _decode(content: bytes, background: int) -> Picture:
    if content.startswith(PNG_SIGNATURE):
        return _decode_png(content, background)
    return _decode_by_pillow(content, background)


def _decode_by_pillow(content: bytes, background: int) -> Picture:
    with warnings.catch_warnings():  # takes a quarter of the time of a small plain PNG, which needs none of this
        warnings.simplefilter("ignore")  # a damaged EXIF block; what matters raises
        return _decode_by_format(content, background)


def _decode_by_format(content: bytes, background: int) -> Picture:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    _check_size(image.width, image.height)
    # A phone's MPO is a JPEG with a second view behind it; its first is the picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"expected one picture, found {image.n_frames} frames or pages")  # type: ignore[attr-defined]
    converted = _describe_mode(image)
    is_jpeg = image.format in ("JPEG", "MPO")
    pixels = _decode_jpeg(image, content) if is_jpeg else _reduce_mode(image, background)
    format = "JPEG" if is_jpeg else str(image.format)
    # Of TIFF, Pillow has applied and removed it by now. Asking without need costs a tenth of decoding a small picture.
    orientation = image.getexif().get(EXIF_ORIENTATION, 1) if image.info.keys() & EXIF_KEYS else 1
    if orientation in (0, 1):
        return Picture(pixels, format, converted)
    picture = _to_image(pixels)
    picture.getexif()[EXIF_ORIENTATION] = orientation
    ImageOps.exif_transpose(picture, in_place=True)
    return Picture(_to_array(picture), format, (*converted, f"EXIF orientation {orientation}"))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"expected at most {MAX_PIXELS} pixels, found {width} x {height}")


def _decode_png(content: bytes, background: int) -> Picture:
    chunks = _check_png(content)
    width, height, bits, kind = PNG_HEADER.unpack_from(content)
    _check_size(width, height)
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is not None and bits == 8 and kind in PNG_CHANNELS and chunks <= PNG_PLAIN_CHUNKS:
        pixels = array[None] if PNG_CHANNELS[kind] == 1 else array[:, :, ::-1].transpose(2, 0, 1)  # OpenCV has BGR
        return Picture(pixels, "PNG")
    picture = _decode_by_pillow(content, background)  # which says better what is wrong, if it sees it
    if array is None:
        raise ValueError("pixels are missing")
    return picture


def _decode_jpeg(image: Image.Image, content: bytes) -> Pixels:
    if image.mode in ("L", "RGB"):
        colorspace = "GRAY" if image.mode == "L" else "RGB"
        return simplejpeg.decode_jpeg(content, colorspace=colorspace, strict=True).transpose(2, 0, 1)
    simplejpeg.decode_jpeg(content, colorspace="CMYK", strict=True)
    return _to_array(image.convert("RGB"))


def _describe_mode(image: Image.Image) -> tuple[str, ...]:
    """To be asked before the pixels are: TIFF turns its own when they are loaded."""
    converted = []
    if image.mode in CONVERTED:
        converted.append(CONVERTED[image.mode])
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        converted.append("transparency")
    if image.mode in DEEP_MODES:
        converted.append("16 bit")
    if image.format == "MPO":
        converted.append("a second view, left out")
    if image.format == "TIFF" and image.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1):
        converted.append(f"EXIF orientation {image.getexif()[EXIF_ORIENTATION]}")
    return tuple(converted)


def _reduce_mode(image: Image.Image, background: int) -> Pixels:
    """To grey or RGB."""
    if image.mode in DEEP_MODES:
        wide = np.asarray(image, dtype=np.uint32)
        narrow = ((wide + 128) // 257).astype(np.uint8)
        narrow[wide == image.info.get("transparency", -1)] = background
        return narrow[None]
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        behind = Image.new("RGBA", rgba.size, (background, background, background, 255))
        flat = Image.alpha_composite(behind, rgba)
        return _to_array(flat.convert("L" if image.mode in ("L", "LA", "La", "1") else "RGB"))
    if image.mode in ("L", "RGB"):
        return _to_array(image)
    if image.mode == "1":
        return _to_array(image.convert("L"))
    if image.mode in ("P", "CMYK", "YCbCr"):
        return _to_array(image.convert("RGB"))
    raise ValueError(f"expected 8 bit or 16-bit grey, found pixels of mode {image.mode}")


def _check_png(content: bytes) -> set[bytes]:
    """Check every chunk's CRC, which Pillow leaves out where it can -> the kinds of chunks there are."""
    kinds = set()
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        end = position + 8 + length
        kind = content[position + 4 : position + 8]
        if end + 4 > len(content):
            raise ValueError("truncated")
        if zlib.crc32(content[position + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise ValueError(f"wrong checksum of PNG chunk {kind!r}")
        kinds.add(kind)
        if kind == b"IEND":
            return kinds
        position = end + 4
    raise ValueError("truncated")


def _fit(image: Image.Image, to: Fit) -> Image.Image:
    image = _convert(image, to)
    size = (to.width, to.height)
    if image.size == size:
        return image
    if to.fit == "stretch":
        return image.resize(size, Image.Resampling.BILINEAR)
    if to.fit == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    return ImageOps.pad(image, size, Image.Resampling.BILINEAR, color=(to.background,) * to.channels)


def _convert(image: Image.Image, to: Fit) -> Image.Image:
    mode = "L" if to.channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _place(image: Image.Image, to: Fit) -> tuple[float, float, float, float]:
    """Where the whole picture lies in the fitted image, as `_fit` does it: left, top, width, height in its pixels."""
    across, down = to.width / image.width, to.height / image.height
    if to.fit == "stretch" or across == down:
        return 0.0, 0.0, float(to.width), float(to.height)
    if to.fit == "crop":
        width, height = image.width * max(across, down), image.height * max(across, down)
        return (to.width - width) / 2, (to.height - height) / 2, width, height
    width, height = to.width, to.height
    if across < down:
        height = round(image.height / image.width * to.width)
    else:
        width = round(image.width / image.height * to.height)
    return float(round((to.width - width) * 0.5)), float(round((to.height - height) * 0.5)), float(width), float(height)


class _Axis(NamedTuple):
    """Which pixels of the result lie in the picture, and from where to where of it, in its own pixels, they are."""

    start: int
    end: int
    low: float
    high: float


def _map_axis(first: float, last: float, size: int, full_size: int, place: float, length: float) -> _Axis:
    """Of a part from `first` to `last`, 0..1, of `size` pixels, where `full_size` pixels lie from `place` on."""
    scale = 1 / (last - first)  # pixels of the result for each of the fitted image
    start, end = (min(max(round((edge - first * size) * scale), 0), size) for edge in (place, place + length))
    low, high = ((first * size + edge / scale - place) * full_size / length for edge in (start, end))
    return _Axis(start, end, max(low, 0.0), min(high, float(full_size)))


def _to_image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def _to_array(image: Image.Image) -> Pixels:
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
