"""Model file + limits -> a running server, until it is told to end."""

import asyncio
import ctypes
import ipaddress
import logging
import math
import signal
import socket
from contextlib import suppress
from pathlib import Path

import numpy as np
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from imclass.data.workers import count_cores
from imclass.errors import InputError
from imclass.export.seal import HASH_LENGTH
from imclass.files import hash_file
from imclass.serving.model import Model, open_model
from imclass.serving.server.app import Served, make_app
from imclass.serving.server.explaining import Explainer
from imclass.serving.server.intake import Limits

TRAINED, PACKED = Path("models/model.safetensors"), Path("data/packed")
PROBE_IMAGES = 4
M_MMAP_THRESHOLD, LARGE = -3, 2**20  # of glibc's malloc.h, in bytes
GRACE_SECONDS = 10  # for what is under way when the server is told to end


def serve(
    model_file: Path,
    limits: Limits,
    *,
    host: str,
    port: int,
    threads: int,
    trained: Path | None,
    packed: Path | None,
) -> None:
    """Serve a model until SIGINT or SIGTERM, then answer what is under way and return.

    `threads` compute the model, 0 as many as there are cores; `port` 0 is any free one. `trained` and `packed` are
    for explanations; None takes those of the pipeline, if they are there. Raises InputError for a file that is missing
    or damaged, and an address that cannot be had.
    """
    for path in (model_file, *filter(None, (trained, packed))):
        if not path.exists():
            raise InputError(
                f"{path}: there is no such file; dvc repro makes those of the pipeline, dvc pull gets them"
            )
    _give_memory_back()
    cores = count_cores()
    model = open_model(model_file, threads=threads or cores)
    explainer = _choose_explainer(model, limits, trained, packed)
    listener = _listen(host, port)
    address, bound_port = listener.getsockname()[:2]
    is_loopback = ipaddress.ip_address(address).is_loopback
    served = Served(model, _read_hash(model_file), explainer)
    app = make_app(served, limits, decoders=cores, only_loopback=is_loopback)
    logging.getLogger("uvicorn.error").addFilter(_is_not_cancelled)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=_Connection,
            loop="asyncio",
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=math.ceil(limits.seconds),
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    for number in signal.SIGINT, signal.SIGTERM:  # also before the server minds them, and once more when it has ended
        signal.signal(number, server.handle_exit)
    shown = f"[{address}]" if ":" in address else address
    print(
        f"http://{shown}:{bound_port}/ answers for {model_file}, {len(model.classes)} classes; Ctrl-C ends", flush=True
    )
    server.run(sockets=[listener])


class _Connection(H11Protocol):
    """Ends itself when it is left without a request: uvicorn waits forever for the rest of a head that has begun."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(self.timeout_keep_alive, self._end_if_idle, self.cycle)

    def _end_if_idle(self, seen: RequestResponseCycle | None) -> None:
        if self.cycle is seen and (seen is None or seen.response_complete):
            self.transport.close()
        elif not self.transport.is_closing():
            self.loop.call_later(self.timeout_keep_alive, self._end_if_idle, self.cycle)


def _choose_explainer(model: Model, limits: Limits, trained: Path | None, packed: Path | None) -> Explainer | str:
    if trained is None and not TRAINED.exists():
        return f"there is no {TRAINED}"
    shape = (PROBE_IMAGES, model.fit.channels, model.fit.height, model.fit.width)
    probe = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return Explainer(
        trained=trained or TRAINED,
        packed=packed or (PACKED if PACKED.exists() else f"there is no {PACKED}"),
        limits=limits,
        probe=probe,
        expected=model.predict(probe),
        classes=model.classes,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host} port {port}: {error}; --host and --port take others") from None
    # Else the body of an answer waits some 40 ms for its head to be acknowledged; asyncio does so for its own sockets.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _give_memory_back() -> None:
    """Let large blocks go back to the system when they are freed: glibc learns to keep what pictures once took."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def _read_hash(path: Path) -> str:
    return path.read_bytes()[-HASH_LENGTH:].decode() if path.suffix == ".onnx" else hash_file(path)


def _is_not_cancelled(record: logging.LogRecord) -> bool:
    """What is cut off when the server ends is no fault to trace."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
