"""Pictures of many requests -> batches -> probabilities. Decoding and the model run beside the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, UInt8

from imclass.data.images import fit_image
from imclass.params import FitParams
from imclass.serving.server.intake import Limits, decode_within

BATCH_IMAGES = 32
WAIT_SECONDS = 0.003  # of a batch, for pictures that are being decoded

Size = tuple[int, int]  # width and height, upright
Image = UInt8[np.ndarray, "c h w"]
Probabilities = Float[np.ndarray, " classes"]


class Batcher:
    """Gives each picture its probabilities, computed together with those of other requests.

    `run` must be running. `seen` is told the size of each batch.
    """

    def __init__(
        self,
        predict: Callable[[UInt8[np.ndarray, "n c h w"]], Float[np.ndarray, "n classes"]],
        fit: FitParams,
        limits: Limits,
        *,
        decoders: int,
        seen: Callable[[float], None],
    ) -> None:
        self._predict, self._fit, self._limits, self._seen = predict, fit, limits, seen
        self._decoders = ThreadPoolExecutor(decoders, "decode")
        self._runner = ThreadPoolExecutor(1, "model")
        self._decoding = 0
        self._waiting: asyncio.Queue[tuple[Image, asyncio.Future[Probabilities]]] = asyncio.Queue()

    @property
    def queue_length(self) -> int:
        """Pictures that are decoded and wait for the model."""
        return self._waiting.qsize()

    async def read(self, content: bytes) -> tuple[Size, Probabilities]:
        """Size and probabilities of the picture in a file. Raises InputError for one not sound or beyond a limit."""
        self._decoding += 1
        try:
            loop = asyncio.get_running_loop()
            size, image = await loop.run_in_executor(self._decoders, self._decode, content)
        finally:
            self._decoding -= 1
        return size, await self.predict(image)

    async def predict(self, image: Image) -> Probabilities:
        """The probabilities of an image that has its shape already."""
        answer: asyncio.Future[Probabilities] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((image, answer))
        return await answer

    async def run(self) -> None:
        """Compute batches until cancelled. What the model raises is raised for each picture of its batch."""
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._gather()
            images = np.stack([image for image, _ in batch])
            self._seen(len(images))
            try:
                probabilities = await loop.run_in_executor(self._runner, self._predict, images)
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), row in zip(batch, probabilities, strict=True):
                    if not answer.done():
                        answer.set_result(row)

    def close(self) -> None:
        for pool in self._decoders, self._runner:
            pool.shutdown(wait=False, cancel_futures=True)

    async def _gather(self) -> list[tuple[Image, "asyncio.Future[Probabilities]"]]:
        """What waits now, and what comes while others are being decoded: a picture on its own waits for nothing."""
        batch = [await self._waiting.get()]
        end = asyncio.get_running_loop().time() + WAIT_SECONDS
        try:
            async with asyncio.timeout_at(end):
                while len(batch) < BATCH_IMAGES and (self._decoding or not self._waiting.empty()):
                    batch.append(await self._waiting.get())
        except TimeoutError:
            pass
        return batch

    def _decode(self, content: bytes) -> tuple[Size, Image]:
        pixels = decode_within(content, self._limits, self._fit.background)
        return (pixels.shape[2], pixels.shape[1]), fit_image(pixels, self._fit)
