"""Files, chunk by chunk -> what a function makes of each chunk, in worker processes where that pays.

These are processes on this machine, or the workers of a Dask cluster.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from imclass.data.cluster import Awaited, Cluster

CHUNK_FILES = 256
CHUNK_BYTES = 4 * 2**20
CHUNKS_AHEAD = 2  # of each worker, so that none waits for the next
SECONDS_WORTH_WORKERS = 0.3  # of work; starting workers takes about a tenth of that
SECONDS_PER_FILE = 10  # a decoder that takes longer hangs

File = tuple[str, bytes, str | None]  # name, content and, where it is known, expected sha256
Result = TypeVar("Result")
Work = Callable[[list[File], int], Result]  # of a chunk, and the seconds for each file (for signal.alarm; 0: any)
GiveUp = Callable[[str, str], Result]  # of the name of a file that ended its process, and why


def process_files(
    files: Iterable[File],
    work: Work[Result],
    give_up: GiveUp[Result],
    *,
    num_files: int,
    workers: int,
    most: int = CHUNK_FILES,
    cluster: str | None = None,
) -> Generator[Result, None, None]:
    """What `work`, which can be pickled, makes of each chunk of at most `most` files, in their order.

    `workers` processes do the work, 0 as many as there are cores; what takes less than a moment is done in this
    process. With the address of a Dask scheduler, `cluster`, its workers take the place of processes. `give_up` makes
    what stands for a file that ended its process.
    Raises InputError for a cluster that cannot be used, or is lost.
    """
    workers = choose_workers(workers)
    chunks = _cut(files, min(most, CHUNK_FILES))
    first = next(chunks, None)
    if first is None:
        return
    start = time.perf_counter()
    result = work(first, 0)
    # The first chunk tells how long the others will take.
    seconds_left = (time.perf_counter() - start) * (num_files / len(first) - 1)
    yield result
    if seconds_left < SECONDS_WORTH_WORKERS or (workers == 1 and not cluster):
        yield from (work(chunk, 0) for chunk in chunks)
    else:
        start_workers = partial(Cluster, cluster) if cluster else partial(Processes, workers)
        yield from _process_in_workers(chunks, work, give_up, start_workers)


def _process_in_workers(
    chunks: Iterator[list[File]],
    work: Work[Result],
    give_up: GiveUp[Result],
    start_workers: Callable[[], "Processes | Cluster"],
) -> Iterator[Result]:
    """In the order of the chunks. When a worker dies, all that waited for one is done file by file to name which."""
    waiting: deque[list[File]] = deque()
    while True:
        with start_workers() as pool:
            futures: deque[Future[Result] | Awaited[Result]] = deque()
            try:
                for chunk in chunks:
                    waiting.append(chunk)
                    futures.append(pool.submit(work, chunk, SECONDS_PER_FILE))
                    if len(futures) > CHUNKS_AHEAD * pool.count_workers():
                        yield futures.popleft().result()
                        waiting.popleft()
                while futures:
                    yield futures.popleft().result()
                    waiting.popleft()
            except BrokenExecutor:
                pass
            else:
                return
        yield from _process_one_by_one(chain.from_iterable(waiting), work, give_up)
        waiting.clear()


def _process_one_by_one(files: Iterator[File], work: Work[Result], give_up: GiveUp[Result]) -> Iterator[Result]:
    while True:
        with Processes(1) as pool:
            for file in files:
                try:
                    yield pool.submit(work, [file], SECONDS_PER_FILE).result()
                except BrokenExecutor:
                    why = f"its decoder crashed, ran out of memory or took longer than {SECONDS_PER_FILE} s"
                    yield give_up(file[0], why)
                    break
            else:
                return


class Processes(ProcessPoolExecutor):
    """Processes that end with this one. Each calls `prepare` first, on Linux without pickling the arguments."""

    def __init__(self, count: int, prepare: Callable[..., None] | None = None, *arguments: object) -> None:
        # Forked where that is safe: a fresh interpreter takes longer to start than to decode some thousand small
        # pictures.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        super().__init__(count, context, partial(_end_with_parent, prepare, *arguments))
        self._count = count

    def count_workers(self) -> int:
        return self._count

    def __exit__(self, kind: type[BaseException] | None, *about: Any) -> bool | None:
        if kind is not None:  # as after Ctrl-C: let nobody wait for results that nobody wants
            for worker in list(self._processes.values()):
                worker.kill()  # from Python 3.14 on, pools have a method
        return super().__exit__(kind, *about)


def _end_with_parent(prepare: Callable[..., None] | None, *arguments: object) -> None:
    """Let no worker outlive a process that is killed, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def choose_workers(workers: int, processes: int = 1) -> int:
    """As many as asked for; 0: one for each core, which as many `processes` as run here share."""
    return workers or max(1, count_cores() // processes)


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cut(files: Iterable[File], most: int) -> Iterator[list[File]]:
    chunk: list[File] = []
    size = 0
    for file in files:
        chunk.append(file)
        size += len(file[1])
        if len(chunk) == most or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
