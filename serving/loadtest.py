"""Measures how a server answers under load.

    python -m serving.loadtest --server=127.0.0.1:8500 --model_name=demo photos [--rate=50]

Closed loop, the default: --concurrency requests are always under way, and the next one is sent
when one is answered; that finds the most a server can do. Open loop (--rate): requests are sent at
random times (Poisson), so many a second on average, however slow the answers are, and the time of
each is counted from the moment it was to be sent; that is what clients who do not know of each
other see. Images are named as for serving.client, and sent again and again.
"""

import argparse
import collections
import dataclasses
import json
import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np

from serving import cli, protocol, tensors, transport
from serving.images import find

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
_MOST_IMAGES = 256  # that are read
_MOST_UNDER_WAY = 10_000  # in the open loop, beyond which this machine is the bottleneck


@dataclasses.dataclass(frozen=True)
class Answer:
    """One request: when it was to be sent, in seconds since the start, how long, how it ended."""

    sent: float
    seconds: float
    code: str


class Load:
    """Sends requests and keeps what becomes of them.

    Attributes:
        answers: in the order in which they ended.
    """

    def __init__(self, channel: grpc.Channel, requests: Sequence[Any], timeout: float):
        """`requests` are sent in turn, each with `timeout` seconds to be answered."""
        self.answers: list[Answer] = []
        self._service = protocol.PredictionServiceStub(channel)
        self._requests, self._timeout = requests, timeout
        self._sent = 0
        self._under_way = 0
        self._changed = threading.Condition()
        self._start = time.monotonic()

    def closed(self, concurrency: int, seconds: float) -> None:
        """Keeps `concurrency` requests under way for some seconds, and waits for the last."""
        end = self._start + seconds
        while (now := time.monotonic()) < end:
            with self._changed:
                while self._under_way >= concurrency:
                    self._changed.wait()
            now = time.monotonic()
            self._send(now)
        self._finish()

    def open(self, rate: float, seconds: float, seed: int) -> None:
        """Sends `rate` requests a second on average for some seconds, and waits for the last.

        Raises:
            UserError: so many are under way that this machine is what is measured.
        """
        for due in _arrivals(rate, seconds, seed):
            wait = self._start + due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            if self._under_way >= _MOST_UNDER_WAY:
                raise cli.UserError(
                    f"{_MOST_UNDER_WAY:,} requests are under way: lower --rate or --timeout"
                )
            self._send(self._start + due)
        self._finish()

    def _send(self, due: float) -> None:
        request = self._requests[self._sent % len(self._requests)]
        self._sent += 1
        with self._changed:
            self._under_way += 1
        future = self._service.Predict.future(request, timeout=self._timeout)
        future.add_done_callback(lambda done: self._end(due, done))

    def _end(self, due: float, done: grpc.Future) -> None:
        code = done.code().name
        with self._changed:
            self.answers.append(Answer(due - self._start, time.monotonic() - due, code))
            self._under_way -= 1
            self._changed.notify()

    def _finish(self) -> None:
        with self._changed:
            while self._under_way:
                self._changed.wait()


def _arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yields the times of a Poisson process, in seconds."""
    draws = random.Random(seed)  # noqa: S311
    at = draws.expovariate(rate)
    while at < seconds:
        yield at
        at += draws.expovariate(rate)


def summary(answers: Sequence[Answer], *, seconds: float, images: int) -> dict[str, Any]:
    """Returns what the answers say.

    Args:
        answers: those that count.
        seconds: in which they were sent.
        images: in each request.

    Returns:
        `requests`, `codes` by name, `images_per_s` answered well, and of those `latency_ms`:
        percentiles, the mean and the largest; NaN if there is none.
    """
    good = np.array([each.seconds for each in answers if each.code == "OK"]) * 1000
    latency = {name: float("nan") for name in (*PERCENTILES, "mean", "max")}
    if len(good):
        found = np.percentile(good, list(PERCENTILES.values())).tolist()
        latency = dict(zip(PERCENTILES, found, strict=True))
        latency |= {"mean": float(good.mean()), "max": float(good.max())}
    return {
        "requests": len(answers),
        "codes": dict(collections.Counter(each.code for each in answers).most_common()),
        "images_per_s": len(good) * images / seconds,
        "latency_ms": latency,
    }


def main() -> int:
    """Runs the command; 1 if no request was answered well."""
    flags = _parse()
    cli.quiet(flags.verbosity)
    if flags.plot:
        _check_plot()
    requests = _requests(flags)
    way = transport.Grpc(flags.server, transport.Model(flags.model_name), None)
    with grpc.insecure_channel(
        flags.server, options=[("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    ) as channel:
        try:
            way.metadata(flags.timeout)  # is it there at all?
        except transport.ServerError as error:
            raise cli.UserError(f"{flags.server} does not answer: {error}") from None
        finally:
            way.close()
        load = Load(channel, requests, flags.timeout)
        if flags.rate:
            load.open(flags.rate, flags.warm_up + flags.seconds, flags.seed)
        else:
            load.closed(flags.concurrency, flags.warm_up + flags.seconds)
    counted = [each for each in load.answers if each.sent >= flags.warm_up]
    report = summary(counted, seconds=flags.seconds, images=flags.batch_size)
    _print(report)
    if flags.json:
        with open(flags.json, "w", encoding="utf-8") as file:
            json.dump({"flags": vars(flags), **report}, file, indent=2)
    if flags.plot:
        _plot(flags.plot, counted, report, flags)
    return 0 if report["codes"].get("OK") else 1


def _requests(flags: argparse.Namespace) -> list[protocol.PredictRequest]:
    """Reads the images and makes batches of them, each beginning with another image."""
    images = [image.data for image, _ in zip(find(flags.images).images(), range(_MOST_IMAGES))]  # noqa: B905
    if not images:
        raise cli.UserError("there is no image to send: name files or folders")
    found = []
    for first in range(len(images)):
        request = protocol.PredictRequest(output_filter=flags.outputs)
        request.model_spec.name = flags.model_name
        request.model_spec.signature_name = flags.signature
        batch = [images[(first + i) % len(images)] for i in range(flags.batch_size)]
        tensors.write(request.inputs["image_bytes"], batch)
        found.append(request)
    return found


def _print(report: dict[str, Any]) -> None:
    latency = report["latency_ms"]
    codes = ", ".join(f"{code} {count:,}" for code, count in report["codes"].items())
    print(f"{report['images_per_s']:.1f} images/s; {report['requests']:,} requests: {codes}")
    print("latency, ms: " + "  ".join(f"{name} {value:.1f}" for name, value in latency.items()))


def _check_plot() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise cli.UserError("--plot needs matplotlib: pip install 'tfpipe[screen]'") from None


def _plot(
    path: str, answers: Sequence[Answer], report: dict[str, Any], flags: argparse.Namespace
) -> None:
    """Draws the histogram of the latency, and answers and errors by second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    good = np.array([each.seconds for each in answers if each.code == "OK"]) * 1000
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    how = f"{flags.rate:g} requests a second" if flags.rate else f"{flags.concurrency} at a time"
    figure.suptitle(f"{flags.model_name}: {how}, {report['images_per_s']:.1f} images/s")
    if len(good):
        edges = np.geomspace(max(good.min(), 0.01), good.max() * 1.001, 50)
        left.hist(good, edges, color="#3b6ea5")
        left.set_xscale("log")
        for name, color in (("p50", "#222222"), ("p99", "#b5482f")):
            value = report["latency_ms"][name]
            left.axvline(value, color=color, linestyle="--", label=f"{name} {value:.1f} ms")
        left.legend(frameon=False)
    left.set(xlabel="latency, ms", ylabel="requests")
    seconds = [math.floor(each.sent + each.seconds) for each in answers]
    steps = range(min(seconds), max(seconds) + 2) if seconds else range(2)
    for is_good, label, color in ((True, "answered", "#3b6ea5"), (False, "refused", "#b5482f")):
        ended = [
            s for s, each in zip(seconds, answers, strict=True) if (each.code == "OK") is is_good
        ]
        counts, _ = np.histogram(ended, steps)
        right.step(list(steps)[:-1], counts, where="post", label=label, color=color)
    right.set(xlabel="second", ylabel="requests a second", ylim=(0, None))
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _parse() -> argparse.Namespace:
    parser = cli.Parser("python -m serving.loadtest", __doc__)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="files, folders or TFRecord files")
    add("--server", metavar="HOST:PORT", default="127.0.0.1:8500", help="its gRPC address")
    add("--model_name", metavar="NAME", default="default", help="the model to ask")
    add("--signature", metavar="NAME", default=protocol.DEFAULT_SIGNATURE, help="what to run")
    add("--outputs", metavar="NAME", nargs="*", default=[], help="outputs wanted; none means all")
    whole, positive = cli.number(int, 1), cli.number(float, 0.001)
    add("--batch_size", metavar="N", type=whole, default=1, help="images in a request")
    add(
        "--concurrency",
        metavar="N",
        type=whole,
        default=32,
        help="requests under way, in the closed loop",
    )
    add(
        "--rate",
        metavar="R",
        type=cli.number(float, 0),
        default=0.0,
        help="requests a second, in the open loop; 0 for the closed one",
    )
    add("--seconds", metavar="S", type=positive, default=20.0, help="how long to measure")
    add(
        "--warm_up",
        metavar="S",
        type=cli.number(float, 0),
        default=2.0,
        help="how long to send before that",
    )
    add("--timeout", metavar="S", type=positive, default=10.0, help="deadline of each request")
    add("--seed", metavar="N", type=cli.number(int, 0), default=0, help="of the random times")
    add("--json", metavar="FILE", default="", help="file for the figures")
    add("--plot", metavar="FILE", default="", help="PNG file for a plot")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
