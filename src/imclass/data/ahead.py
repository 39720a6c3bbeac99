"""Tasks -> arrays of pixels, made by forked processes ahead of their use and handed over in order, in shared memory."""

import math
import mmap
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8

from imclass.data.workers import Processes, choose_workers
from imclass.errors import InputError

CHUNKS_AHEAD = 2  # for each worker, one of which it is making

Task = TypeVar("Task")


class _Forked(NamedTuple):
    """What a worker has in its memory from the start, and is never sent."""

    make: Callable[[Any], Any]
    slots: UInt8[np.ndarray, "slots n c h w"]


_forked: list[_Forked] = []  # of this process, where it is a worker


def make_ahead(
    make: Callable[[Task], Any], tasks: Sequence[Task], shape: tuple[int, ...], *, workers: int
) -> Generator[UInt8[np.ndarray, "n c h w"], None, None]:
    """What `make` makes of each task, arrays or tensors uint8 of `shape` or shorter, in the order of the tasks.

    `workers` processes make them, 0: as many as there are cores. Each has the memory of this one at its start, copies
    nothing of it, and ends with it. At most CHUNKS_AHEAD for each wait to be used.
    Raises what `make` raises, and InputError where a worker ended.
    """
    workers = min(choose_workers(workers), len(tasks))
    num_slots = min(CHUNKS_AHEAD * workers, len(tasks))
    # Not in /dev/shm, of which containers often have 64 MB only.
    memory = mmap.mmap(-1, num_slots * math.prod(shape))
    slots = np.frombuffer(memory, np.uint8).reshape(num_slots, *shape)
    waiting: deque[tuple[int, Future[int]]] = deque()

    def take() -> UInt8[np.ndarray, "n c h w"]:
        slot, future = waiting.popleft()
        return slots[slot, : future.result()].copy()

    with Processes(workers, _start, _Forked(make, slots)) as pool:
        try:
            for number, task in enumerate(tasks):
                if len(waiting) == num_slots:
                    yield take()
                slot = number % num_slots
                waiting.append((slot, pool.submit(_fill, slot, task)))
            while waiting:
                yield take()
        except BrokenProcessPool:
            raise InputError(
                "a process that decodes images ended: it was killed, as happens where memory runs out, or its decoder "
                "crashed; run again, with fewer workers where memory was short"
            ) from None


def _start(forked: _Forked) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent's to handle, as Ctrl-C
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # there is a worker for each core, and no thread of the parent's here
    _forked[:] = [forked]


def _fill(slot: int, task: Any) -> int:
    made = np.asarray(_forked[0].make(task))
    _forked[0].slots[slot, : len(made)] = made
    return len(made)
