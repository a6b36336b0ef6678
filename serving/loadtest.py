"""Measure the throughput and latency of a server under load.

    tfpipe loadtest --server=127.0.0.1:8500 --model_name=demo photos [--rate=50]

Closed loop, the default: --concurrency requests are always under way; each answer starts the next
request. It finds the maximum. Open loop (--rate): requests arrive at random times (Poisson)
with that rate on average, however slow the answers are. Each latency counts from the planned time.
This is what independent clients see. Images are named as for tfpipe client, and sent repeatedly,
by gRPC only.
"""

import collections
import dataclasses
import itertools
import json
import math
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grpc
import numpy as np

from serving.connection_options import ConnectionOptions
from tfpipe.core import cli
from tfpipe.core.errors import UserError
from tfpipe.core.options import arguments, option
from tfpipe.protocol import messages, transport
from tfpipe.protocol.connection_settings import ConnectionSettings
from tfpipe.protocol.grpc_connection import Grpc, is_target
from tfpipe.protocol.images import find
from tfpipe.protocol.input_arrays import read_inputs
from tfpipe.protocol.transport import finish

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
_MOST_IMAGES = 256  # that are read
_MOST_UNDER_WAY = 10_000  # in the open loop; beyond it this machine is the bottleneck


@dataclasses.dataclass(frozen=True)
class RequestResult:
    """One request: planned time in seconds since the start, duration, and status code."""

    sent: float
    seconds: float
    code: str


class Load:
    """Sends requests and keeps their results.

    Attributes:
        results: in the order of their ends.
    """

    def __init__(
        self,
        service: messages.PredictionServiceStub,
        requests: Iterable[messages.PredictRequest],
        settings: ConnectionSettings,
    ):
        """`requests` are sent in turn, with the deadline and the metadata of `settings`."""
        self.results: list[RequestResult] = []
        self._service, self._settings = service, settings
        self._requests = itertools.cycle(requests)
        self._under_way = 0
        self._changed = threading.Condition()
        self._start = time.monotonic()

    def closed(self, concurrency: int, seconds: float) -> None:
        """Keep `concurrency` requests under way for some seconds, and wait for the last."""
        end = self._start + seconds
        while time.monotonic() < end:
            self._wait_for(concurrency - 1)
            self._send(time.monotonic())
        self._wait_for(0)

    def open(self, rate: float, seconds: float, seed: int) -> None:
        """Send `rate` requests a second on average for some seconds, and wait for the last.

        Raises:
            UserError: more requests are under way than this machine can handle.
        """
        for due in _arrivals(rate, seconds, seed):
            wait = self._start + due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            if self._under_way >= _MOST_UNDER_WAY:
                raise UserError(
                    f"{_MOST_UNDER_WAY:,} requests are under way: lower --rate or --timeout"
                )
            self._send(self._start + due)
        self._wait_for(0)

    def _send(self, due: float) -> None:
        with self._changed:
            self._under_way += 1
        future = self._service.Predict.future(
            next(self._requests),
            timeout=self._settings.timeout,
            metadata=[*self._settings.headers().items()],
        )
        future.add_done_callback(lambda done: self._end(due, done))

    def _end(self, due: float, done: grpc.Future) -> None:
        code = done.code().name
        with self._changed:
            self.results.append(RequestResult(due - self._start, time.monotonic() - due, code))
            self._under_way -= 1
            self._changed.notify()

    def _wait_for(self, most: int) -> None:
        """Wait until at most this number of requests is under way."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way <= most)


def _arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the times of a Poisson process, in seconds."""
    draws = random.Random(seed)  # noqa: S311
    at = draws.expovariate(rate)
    while at < seconds:
        yield at
        at += draws.expovariate(rate)


def summary(results: Sequence[RequestResult], *, seconds: float, images: int) -> dict[str, Any]:
    """Return the figures of a measurement.

    Args:
        results: the requests that count.
        seconds: duration of the measurement.
        images: images in each request.

    Returns:
        `requests`, `codes` by name, and for the code OK `images_per_s` and `latency_ms`:
        percentiles, mean and maximum; NaN if there is none.
    """
    good = _latencies(results)
    latency = {name: float("nan") for name in (*PERCENTILES, "mean", "max")}
    if len(good):
        found = np.percentile(good, list(PERCENTILES.values())).tolist()
        latency = dict(zip(PERCENTILES, found, strict=True))
        latency |= {"mean": float(good.mean()), "max": float(good.max())}
    return {
        "requests": len(results),
        "codes": dict(collections.Counter(each.code for each in results).most_common()),
        "images_per_s": len(good) * images / seconds,
        "latency_ms": latency,
    }


def _latencies(results: Sequence[RequestResult]) -> np.ndarray:
    """Return the milliseconds of the good answers."""
    return 1000 * np.array([each.seconds for each in results if each.code == "OK"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ConnectionOptions):
    """The flags of this command."""

    images: tuple[str, ...] = arguments("IMAGE", "files, folders or TFRecord files")
    outputs: tuple[str, ...] = option("an output to request; without it all", (), group="Load")
    batch_size: int = option("images in a request", 1, minimum=1)
    concurrency: int = option("requests under way, in the closed loop", 32, minimum=1, common=True)
    rate: float = option(
        "requests a second, in the open loop; 0 for the closed one", 0.0, minimum=0, common=True
    )
    seconds: float = option("how long to measure", 20.0, minimum=0.001, common=True)
    warm_up: float = option("seconds of load before the measurement", 2.0, minimum=0)
    seed: int = option("seed of the random arrival times", 0, minimum=0)
    json: str = option("file for the figures", "", common=True)
    plot: str = option("PNG file for a plot", "", common=True)


def main(options: Options) -> int:
    """Run the load; return 1 if no request was answered."""
    if options.plot:
        _check_plot()
    images = _images(options)
    target = transport.Target.of(options.model_name, options.version, options.version_label)
    if not is_target(options.server):
        raise UserError(f"--server={options.server}: the load is sent by gRPC: give HOST:PORT")
    settings = options.settings()
    connection = Grpc(options.server, settings)
    try:
        finish(connection.metadata(target))  # does it answer at all?
        requests = [
            connection.request(
                target, read_inputs({"image_bytes": batch}), options.outputs, options.signature_name
            )
            for batch in images
        ]
        load = Load(connection.service, requests, settings)
        seconds = options.warm_up + options.seconds
        if options.rate:
            load.open(options.rate, seconds, options.seed)
        else:
            load.closed(options.concurrency, seconds)
    except transport.ServerError as error:
        raise UserError(f"{options.server} does not answer: {error}") from None
    finally:
        finish(connection.close())
    counted = [each for each in load.results if each.sent >= options.warm_up]
    report = summary(counted, seconds=options.seconds, images=options.batch_size)
    _print(report)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"flags": dataclasses.asdict(options), **report}, file, indent=2)
    if options.plot:
        _plot(options.plot, counted, report, options)
    return 0 if report["codes"].get("OK") else 1


def _images(options: Options) -> list[list[bytes]]:
    """Return the images of each request; every image is the first of one."""
    found = itertools.islice(find(options.images).images(), _MOST_IMAGES)
    images = [image.data for image in found]
    if not images:
        raise UserError("there is no image to send: name files or folders")
    return [
        [images[(first + place) % len(images)] for place in range(options.batch_size)]
        for first in range(len(images))
    ]


def _print(report: dict[str, Any]) -> None:
    latency = report["latency_ms"]
    codes = ", ".join(f"{code} {count:,}" for code, count in report["codes"].items())
    print(f"{report['images_per_s']:.1f} images/s; {report['requests']:,} requests: {codes}")
    print("latency, ms: " + "  ".join(f"{name} {value:.1f}" for name, value in latency.items()))


def _check_plot() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("--plot needs matplotlib: pip install 'tfpipe[screen]'") from None


def _plot(
    path: str, results: Sequence[RequestResult], report: dict[str, Any], options: Options
) -> None:
    """Draw a histogram of the latency, and the answers and rejections of each second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    good = _latencies(results)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    how = f"{options.concurrency} at a time"
    if options.rate:
        how = f"{options.rate:g} requests a second"
    figure.suptitle(f"{options.model_name}: {how}, {report['images_per_s']:.1f} images/s")
    if len(good):
        edges = np.geomspace(max(good.min(), 0.01), good.max() * 1.001, 50)
        left.hist(good, edges, color="#3b6ea5")
        left.set_xscale("log")
        for name, color in (("p50", "#222222"), ("p99", "#b5482f")):
            value = report["latency_ms"][name]
            left.axvline(value, color=color, linestyle="--", label=f"{name} {value:.1f} ms")
        left.legend(frameon=False)
    left.set(xlabel="latency, ms", ylabel="requests")
    end = max((each.sent + each.seconds for each in results), default=1)
    steps = np.arange(math.ceil(end) + 1)
    for is_good, label, color in ((True, "answered", "#3b6ea5"), (False, "refused", "#b5482f")):
        ended = [e.sent + e.seconds for e in results if (e.code == "OK") is is_good]
        right.stairs(np.histogram(ended, steps)[0], steps, label=label, color=color)
    right.set(xlabel="second", ylabel="requests a second", ylim=(0, None))
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    cli.run(main, Options, tuned=False)
