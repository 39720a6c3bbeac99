"""Training loops -> images/s of each as a ratio to a baseline, all in one process and in short turns.

A shared machine changes its speed from second to second, and from process to process. So every loop runs for a fraction
of a second, between two turns of the baseline, again and again: the median of the ratios holds to a few per cent where
absolute rates vary by a factor. What a loop does once an epoch must be small beside a turn, or it is not seen.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Step = Callable[[int], None]
Loop = Callable[[Step], None]


@dataclass(frozen=True)
class Slices:
    """What the turns of one loop gave: images/s, and ratios to the baseline beside them."""

    rates: list[float]
    ratios: list[float]


class _Stopped(BaseException):
    pass


class _Turns:
    """Runs a loop in a thread of its own, only while it is its turn; the loop calls `step(images)` after each step."""

    def __init__(self, loop: Loop) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.images, self.end, self.stopping = 0, 0.0, False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self.thread.start()

    def _run(self, loop: Loop) -> None:
        self.go.acquire()
        try:
            loop(self._step)
            raise RuntimeError("the loop ended by itself: expected one that goes on")
        except _Stopped:
            pass
        except BaseException as error:
            self.error = error
        self.done.release()

    def _step(self, images: int) -> None:
        self.images += images
        if self.stopping:
            raise _Stopped
        if time.perf_counter() >= self.end:
            self.done.release()
            self.go.acquire()
            if self.stopping:
                raise _Stopped

    def take(self, seconds: float) -> float:
        """Let the loop run for at least `seconds` -> its images/s."""
        self.images = 0
        start = time.perf_counter()
        self.end = start + seconds
        self.go.release()
        self.done.acquire()
        if self.error:
            raise self.error
        return self.images / (time.perf_counter() - start)

    def stop(self) -> None:
        self.stopping = True
        self.go.release()
        self.thread.join(timeout=60)


def compare_loops(baseline: Loop, loops: Mapping[str, Loop], *, seconds: float, rounds: int) -> dict[str, Slices]:
    """Run all loops in turns of `seconds`, each between two turns of the baseline, `rounds` times after a warm-up."""
    slices = {name: Slices([], []) for name in loops}
    with _warm_up([baseline, *loops.values()], seconds) as (limit, *turns):
        for _ in range(rounds):
            before = limit.take(seconds)
            for name, taken in zip(loops, turns, strict=True):
                rate = taken.take(seconds)
                after = limit.take(seconds)
                slices[name].rates.append(rate)
                slices[name].ratios.append(rate / ((before + after) / 2))
                before = after
    return slices


def compare_disturbed(
    neighbour: Sequence[str], loops: Mapping[str, Loop], *, seconds: float, rounds: int
) -> dict[str, Slices]:
    """Run each loop beside another program, between two quiet turns of its own, `rounds` times.

    The neighbour prints a line once it is busy. Rates are those beside it, ratios are to the quiet turns.
    """
    slices = {name: Slices([], []) for name in loops}
    with (
        _warm_up(list(loops.values()), seconds) as turns,
        subprocess.Popen(neighbour, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        try:
            process.stdout.readline()
            for _ in range(rounds):
                for name, taken in zip(loops, turns, strict=True):
                    process.send_signal(signal.SIGSTOP)
                    before = taken.take(seconds)
                    process.send_signal(signal.SIGCONT)
                    rate = taken.take(seconds)
                    process.send_signal(signal.SIGSTOP)
                    after = taken.take(seconds)
                    slices[name].rates.append(rate)
                    slices[name].ratios.append(rate / ((before + after) / 2))
        finally:
            process.kill()
    return slices


@contextmanager
def _warm_up(loops: Sequence[Loop], seconds: float) -> Iterator[list[_Turns]]:
    turns = [_Turns(loop) for loop in loops]
    try:
        for taken in turns:
            taken.take(seconds)  # sets up, and compiles what is compiled at the first step
            taken.take(seconds)
        yield turns
    finally:
        for taken in turns:
            taken.stop()
