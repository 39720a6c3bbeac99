"""What is counted while serving, as Prometheus reads it."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Requests by path and status, their latency, sizes of batches, and how much is under way."""

    def __init__(self, *, queue_length: Callable[[], float], in_progress: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter("imclass_requests", "Answered requests.", ["path", "status"], registry=self._registry)
        self._seconds = Histogram(
            "imclass_request_seconds",
            "From a request's head to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "imclass_batch_images", "Pictures run together.", buckets=SIZES, registry=self._registry
        )
        for name, text, measure in (
            ("imclass_queue_length", "Decoded pictures that wait for the model.", queue_length),
            ("imclass_requests_in_progress", "Pictures being read or worked on.", in_progress),
        ):
            Gauge(name, text, registry=self._registry).set_function(measure)

    def note_request(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def note_batch(self, size: float) -> None:
        self._batches.observe(size)

    def write(self) -> bytes:
        return generate_latest(self._registry)
