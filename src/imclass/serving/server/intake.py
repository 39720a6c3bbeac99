"""Request -> the bytes of a picture, and these -> pixels, within limits; nothing that is sent is trusted."""

import asyncio
import io
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from PIL import Image

from imclass.data.images import FORMATS, PNG_HEADER, PNG_SIGNATURE, Pixels, decode_image
from imclass.errors import InputError

RETRY = {"Retry-After": "1"}  # in seconds, for one that was turned away
MOST_SCANS = 100  # of a JPEG; cameras and editors write 1 to 12, and each costs a pass over all pixels
SCAN = b"\xff\xda"  # starts one, and cannot stand within its data

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Of one request: seconds from its first byte to the answer, bytes of its body, pixels of its picture. Of all:
    how many are read or worked on at once.
    """

    seconds: float
    body_bytes: int
    pixels: int
    at_once: int


class Slots:
    """What is read or worked on; beyond `count` a request is turned away before its body is read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0

    def take(self) -> None:
        """Raises HTTPException 503 where none is free."""
        if self.taken >= self.count:
            message = f"{self.count} requests are being answered, and there is no room for more: try again"
            raise HTTPException(503, message, RETRY)
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1


async def answer_in_time(request: Request, limits: Limits, slots: Slots, work: Callable[[bytes], Awaitable[T]]) -> T:
    """Read the body, and give what `work` makes of it.

    The slot is taken until the work ends, which may be after its request was told that it took too long. Raises
    HTTPException: 408, 413 or 415 for the body, 503 beyond capacity, 504 where the work takes too long.
    """
    end = asyncio.get_running_loop().time() + limits.seconds
    slots.take()
    try:
        content = await _read_body(request, limits, end)
    except BaseException:
        slots.give_back()
        raise
    task = asyncio.ensure_future(work(content))
    task.add_done_callback(lambda _: slots.give_back())
    task.add_done_callback(look_at)
    try:
        async with asyncio.timeout_at(end):
            return await asyncio.shield(task)
    except TimeoutError:
        raise HTTPException(504, f"no answer within {limits.seconds:g} s") from None


def look_at(done: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody waits for any longer, which asyncio would print."""
    if not done.cancelled():
        done.exception()


def decode_within(content: bytes, limits: Limits, background: int) -> Pixels:
    """As `decode_image`, but what would take much time or memory is refused before it is decoded.

    Raises InputError for that, and for what is not a sound picture.
    """
    pixels = _count_pixels(content)
    if pixels > limits.pixels:
        raise InputError(f"picture: expected at most {limits.pixels} pixels, found {pixels}")
    if content.startswith(b"\xff\xd8") and content.count(SCAN) > MOST_SCANS:
        raise InputError(f"picture: expected a JPEG of at most {MOST_SCANS} scans, found {content.count(SCAN)}")
    return decode_image("picture", content, background=background)


async def _read_body(request: Request, limits: Limits, end: float) -> bytes:
    kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind != "application/octet-stream" and not kind.startswith("image/"):
        raise HTTPException(415, f"Content-Type: expected image/* or application/octet-stream, found {kind!r}")
    too_large = HTTPException(413, f"expected a body of at most {limits.body_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout_at(end):
            async for part in request.stream():
                body += part
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {limits.seconds:g} s") from None
    return bytes(body)


def _count_pixels(content: bytes) -> int:
    """By the header; 0 where it cannot be read, which decoding then says."""
    if content.startswith(PNG_SIGNATURE) and len(content) >= PNG_HEADER.size:
        width, height, _, _ = PNG_HEADER.unpack_from(content)
        return width * height
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            width, height = Image.open(io.BytesIO(content), formats=FORMATS).size
    except Image.DecompressionBombError as error:
        raise InputError(f"picture: {error}") from None
    except Exception:  # Pillow raises what its parsers raise on damaged bytes: nearly everything
        return 0
    return width * height
