"""A Dask cluster as the workers of `process_files`.

Chunks of files and what is made of them travel through its scheduler; nothing is read or written on its machines.
"""

import functools
import hashlib
import logging
import pickle
import platform
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np
import PIL
import simplejpeg

from imclass.errors import InputError, list_problems

if TYPE_CHECKING:  # loaded only where there is a cluster
    from distributed import Future, Worker

SECONDS_WITHOUT_WORKERS = 60  # until a build gives up
UNLIKE = "may not make the same pixels as this process"

Result = TypeVar("Result")


class Cluster:
    """All workers of the cluster whose scheduler is at `address`, also those that join later.

    Raises InputError where there is no scheduler or no worker, where the scheduler is lost, and where a worker could
    make other pixels of a file than this process: at the start for all that are there, later for each that joins.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ModuleNotFoundError:
            told = f"DASK_SCHEDULER_ADDRESS is {address}, which needs Dask: python -m pip install distributed"
            raise InputError(told) from None
        for name in ("distributed", "distributed.client"):  # with tracebacks of what is told here in one message
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._address = address
        try:
            self._client = Client(address, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(f"DASK_SCHEDULER_ADDRESS: expected a Dask scheduler at {address}: {error}") from None

    def __enter__(self) -> "Cluster":
        try:
            self._wait_for_workers()
            with self._tell_loss():
                self._check_all()
        except BaseException:
            self._client.close()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        self._client.close()  # which lets go of all that was not waited for

    def submit(self, work: Callable[..., Result], *arguments: Any) -> "Awaited[Result]":
        """Let a worker do it, and another one where that ends."""
        # Pickled here, so that another version of imclass is seen before it fails to read it.
        future = self._client.submit(_work, _describe(), pickle.dumps((work, arguments)), pure=False)
        return Awaited(functools.partial(self._wait_for, future))

    def count_workers(self) -> int:
        """Those that are there now."""
        with self._tell_loss():
            return len(self._client.nthreads())

    def _wait_for(self, future: "Future[Result]") -> Result:
        from distributed import KilledWorker

        while True:
            try:
                with self._tell_loss():
                    return future.result(SECONDS_WITHOUT_WORKERS)
            except TimeoutError:
                self._wait_for_workers()
            except KilledWorker as error:
                raise BrokenExecutor from error

    def _wait_for_workers(self) -> None:
        try:
            with self._tell_loss():
                self._client.wait_for_workers(1, SECONDS_WITHOUT_WORKERS)
        except TimeoutError:
            told = f"expected a worker, found none for {SECONDS_WITHOUT_WORKERS} s"
            raise InputError(f"Dask cluster at {self._address}: {told}") from None

    def _check_all(self) -> None:
        found: dict[str, Any] = self._client.run(_describe_worker, on_error="return")
        try:
            found["scheduler"] = self._client.run_on_scheduler(_describe)
        except Exception as error:
            found["scheduler"] = error
        problems = [problem for where, there in found.items() for problem in _compare(where, _describe(), there)]
        if problems:
            raise InputError(f"Dask cluster at {self._address} {UNLIKE}\n{list_problems(problems)}")

    @contextmanager
    def _tell_loss(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:  # which is an OSError
            raise
        except (OSError, CancelledError):
            raise InputError(f"Dask cluster at {self._address}: lost the connection to its scheduler") from None


class Awaited(NamedTuple, Generic[Result]):
    """What a worker will have made; `result` raises BrokenExecutor where that ended one worker after another."""

    result: Callable[[], Result]


def _work(expected: Mapping[str, Any], pickled: bytes) -> Any:
    from distributed import get_worker

    worker = get_worker()
    if problems := _compare(worker.address, expected, _describe_worker(worker)):
        raise InputError(f"Dask cluster {UNLIKE}\n{list_problems(problems)}")
    work, arguments = pickle.loads(pickled)
    try:
        return work(*arguments)
    finally:
        signal.alarm(0)  # where work raised, lest it end this process, which lives on


def _describe_worker(dask_worker: "Worker") -> dict[str, Any]:
    return _describe(dask_worker.state.nthreads)


def _describe(threads: int = 1) -> dict[str, Any]:
    """What of a process decides pixels. Several threads would share one timer, which ends decoders that hang."""
    packages = {module.__name__: module.__version__ for module in (np, PIL, cv2, simplejpeg)}
    code = {"code in imclass/data": _hash_code()}
    return {"Python": platform.python_version(), "machine": platform.machine(), **packages, **code, "threads": threads}


def _compare(where: str, expected: Mapping[str, Any], found: Mapping[str, Any] | Exception) -> list[str]:
    if isinstance(found, Exception):
        return [f"{where}: expected this version of imclass, found {found!r}"]
    differing = [name for name in expected if found.get(name) != expected[name]]
    return [f"{where}: {name}: expected {expected[name]}, found {found.get(name)}" for name in differing]


@functools.cache  # what is loaded, whatever becomes of the files
def _hash_code() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
