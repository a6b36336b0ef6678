"""Metrics for Prometheus, with TensorFlow Serving's names."""

import threading
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST

_REQUESTS = ":tensorflow:serving:request_count"
_LATENCY = ":tensorflow:serving:request_latency"
# Microseconds, up to 20 minutes (tensorflow_serving/servables/tensorflow/util.cc).
_BUCKETS = [10 * 1.8**power for power in range(33)]


class Metrics:
    """Counts and latencies of requests; safe to use from several threads."""

    def __init__(self):
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            _LATENCY,
            "Distribution of wall time (in microseconds) for requests.",
            ["model_name", "API", "entrypoint"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._registry.register(self)

    def record(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Count a request of `seconds`, with the name of its gRPC status.

        Every name of a model is kept for good, so pass "" for one that is not served.
        """
        with self._lock:
            self._counts[model, status] += 1
        self._latency.labels(model, api, entrypoint).observe(seconds * 1e6)

    def collect(self) -> Iterator[Metric]:
        """Yield the counts; the library's Counter would append `_total` to the name."""
        metric = Metric(_REQUESTS, "The total number of requests.", "unknown")
        with self._lock:
            counts = sorted(self._counts.items())
        for (model, status), count in counts:
            metric.add_sample(_REQUESTS, {"model_name": model, "status": status}, count)
        yield metric

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
