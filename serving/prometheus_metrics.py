"""Metrics for Prometheus, with TensorFlow Serving's names, labels and buckets.

Written without Prometheus' own library, which would call `request_count` `request_count_total`, add
`_created` series, and print the limits of the buckets differently.
"""

import bisect
import itertools
import threading
from collections import Counter
from collections.abc import Iterator

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Microseconds, up to 20 minutes (tensorflow_serving/servables/tensorflow/util.cc).
_LATENCY_LIMITS = [10 * 1.8**power for power in range(33)]
_EXAMPLE_LIMITS = [2.0**power for power in range(15)]


class _Series:
    """The values of one metric by their labels."""

    kind = ""

    def __init__(self, name: str, labels: str):
        """Take the name, and the names of the labels with blanks between them."""
        self.name, self._labels = f":tensorflow:serving:{name}", labels.split()
        self._lock = threading.Lock()

    def labelled(self, values: tuple[str, ...], **more: str) -> str:
        """Return the labels in Prometheus' text format."""
        pairs = itertools.chain(zip(self._labels, values, strict=True), more.items())
        return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in pairs) + "}"


class _Count(_Series):
    """A count that only grows."""

    kind = "counter"

    def __init__(self, name: str, labels: str):
        super().__init__(name, labels)
        self._counts: Counter[tuple[str, ...]] = Counter()

    def add(self, *labels: str, amount: int = 1) -> None:
        """Count `amount` more."""
        with self._lock:
            self._counts[labels] += amount

    def lines(self) -> Iterator[str]:
        """Yield a line for each combination of labels."""
        with self._lock:
            found = sorted(self._counts.items())
        for labels, count in found:
            yield f"{self.name}{self.labelled(labels)} {count}"


class _Distribution(_Series):
    """How often values fell between limits."""

    kind = "histogram"

    def __init__(self, name: str, labels: str, limits: list[float]):
        super().__init__(name, labels)
        self._limits = limits
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: Counter[tuple[str, ...]] = Counter()

    def add(self, *labels: str, value: float) -> None:
        """Count a value; one at a limit belongs to the next bucket, as in TensorFlow."""
        with self._lock:
            counts = self._counts.setdefault(labels, [0] * (len(self._limits) + 1))
            counts[bisect.bisect_right(self._limits, value)] += 1
            self._sums[labels] += value

    def lines(self) -> Iterator[str]:
        """Yield the buckets, the sum and the count for each combination of labels."""
        with self._lock:
            found = sorted(
                (key, each.copy(), self._sums[key]) for key, each in self._counts.items()
            )
        limits = [*(f"{limit:g}" for limit in self._limits), "+Inf"]
        for labels, counts, total in found:
            for limit, count in zip(limits, itertools.accumulate(counts), strict=True):
                yield f"{self.name}_bucket{self.labelled(labels, le=limit)} {count}"
            yield f"{self.name}_sum{self.labelled(labels)} {total:.15g}"
            yield f"{self.name}_count{self.labelled(labels)} {sum(counts)}"


class Metrics:
    """What the server counts; safe to use from several threads.

    Every name of a model is kept for good, so pass "" for one that is not served.
    """

    def __init__(self):
        self._warm_up = _Distribution("model_warmup_latency", "model_path status", _LATENCY_LIMITS)
        self._requests = _Count("request_count", "model_name status")
        self._examples = _Count("request_example_count_total", "model")
        self._example_counts = _Distribution("request_example_counts", "model", _EXAMPLE_LIMITS)
        labels = "model_name API entrypoint"
        self._latency = _Distribution("request_latency", labels, _LATENCY_LIMITS)
        labels = "model_name API runtime"
        self._runtime = _Distribution("runtime_latency", labels, _LATENCY_LIMITS)

    def record(self, model: str, api: str, entrypoint: str, status: str, seconds: float) -> None:
        """Count a request with the name of its gRPC status, and the time of one that is OK."""
        self._requests.add(model, status)
        if status == "OK":
            self._latency.add(model, api, entrypoint, value=seconds * 1e6)

    def record_runtime(self, model: str, api: str, seconds: float) -> None:
        """Count the time that a signature took, with its wait for a batch."""
        self._runtime.add(model, api, "TF1", value=seconds * 1e6)

    def record_examples(self, model: str, count: int) -> None:
        """Count the examples of a request."""
        self._examples.add(model, amount=count)
        self._example_counts.add(model, value=count)

    def record_warm_up(self, path: str, seconds: float) -> None:
        """Count the time of the warm-up requests in the folder `path`."""
        self._warm_up.add(path, "OK", value=seconds * 1e6)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        series = sorted(vars(self).values(), key=lambda each: each.name)
        lines = [[f"# TYPE {each.name} {each.kind}", *each.lines()] for each in series]
        return "".join(f"{line}\n" for line in itertools.chain(*lines)).encode()


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
