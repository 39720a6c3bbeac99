"""The process that explains pictures: PyTorch is loaded there, when it is first asked, and never in the way of answers.

It has a lower priority than the rest, and its end, for want of memory say, ends nothing else.
"""

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from fastapi import HTTPException

from imclass.errors import InputError
from imclass.serving.server.intake import RETRY

NICENESS = 10
MOST_SECONDS = 120.0  # for one picture, and for loading PyTorch before the first


class Explainer:
    """Asks the process, one picture after another, and starts it where there is none."""

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        # A new process keeps the signals that its thread blocks: Ctrl-C is for the server, which then ends the process.
        self.thread = ThreadPoolExecutor(
            1, "explain", partial(signal.pthread_sigmask, signal.SIG_BLOCK, [signal.SIGINT])
        )
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def explain(self, content: bytes) -> dict[str, Any]:
        """See `Explanations.explain`; to be called in `thread`.

        Raises InputError for the picture, HTTPException 404 where it cannot be explained by these files, 503 where the
        process has ended.
        """
        connection = self._connection or self._start()
        try:
            connection.send_bytes(content)
            if not connection.poll(MOST_SECONDS):
                raise TimeoutError(f"it took more than {MOST_SECONDS:g} s")
            kind, answer = connection.recv()
        except (EOFError, OSError) as error:
            self.close()
            reason = str(error) or "for want of memory?"
            raise HTTPException(503, f"the process that explains has ended: {reason}", RETRY) from None
        if kind == "refused":
            raise InputError(answer)
        if kind == "not available":
            raise HTTPException(404, answer)
        return answer

    def close(self) -> None:
        """End the process; a later picture starts another."""
        process, self._process, self._connection = self._process, None, None
        if process:
            process.kill()

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_work, args=(other_end, self._arguments), daemon=True)
        self._process.start()
        other_end.close()
        return self._connection


def _work(connection: Connection, arguments: dict[str, Any]) -> None:
    os.nice(NICENESS)

    from imclass.serving.server.explanation import Explanations  # loads PyTorch

    try:
        explanations = Explanations(**arguments)
    except (InputError, OSError) as error:
        reason = str(error)
        while True:
            _receive(connection)
            connection.send(("not available", reason))
    while True:
        while not connection.poll() and explanations.work_ahead():
            pass
        content = _receive(connection)
        try:
            connection.send(("explained", explanations.explain(content)))
        except InputError as error:
            connection.send(("refused", str(error)))


def _receive(connection: Connection) -> bytes:
    try:
        return connection.recv_bytes()
    except EOFError:  # the server has ended
        raise SystemExit from None
