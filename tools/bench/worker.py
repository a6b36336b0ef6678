"""What runs in the process of a measurement: one function of tools.bench, timed if need be."""

import importlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterable

RESULT = "BENCH "  # what the line with a process's result begins with

# Starts an epoch and yields the number of images of each batch that is ready.
Epoch = Callable[[], Iterable[int]]

PACKAGES = (
    "tensorflow tf-keras keras numpy simplejpeg opencv-python-headless pillow tfpipe torch grain"
    " spdl nvidia-dali-cuda120"
)


class Failed(Exception):  # noqa: N818 (the reason is part of the report)
    """A measurement failed; the text is the reason in one line."""


class Missing(Failed):
    """A package is not installed in the Python of a case."""


def main(name: str, arguments: str) -> None:
    """Call `MODULE.FUNCTION` with JSON arguments; print its figures, or the `missing` package.

    A function that returns an `Epoch` is timed for `seconds` of the arguments.
    """
    module, _, function = name.partition(".")
    given = json.loads(arguments)
    seconds = given.get("seconds", 0.0)
    try:
        found = getattr(importlib.import_module(f"tools.bench.{module}"), function)(**given)
        if callable(found):
            found = timed(found, seconds)
    except ModuleNotFoundError as error:
        found = {"missing": error.name}
    print(f"\n{RESULT}{json.dumps(found)}", flush=True)


def timed(epoch: Epoch, seconds: float) -> dict[str, float]:
    """Measure whole epochs for at least `seconds`, after one epoch to warm up.

    An epoch that takes longer than `seconds` is cut there.
    """
    start = time.perf_counter()
    for _ in epoch():
        if time.perf_counter() - start >= seconds:
            break
    images, elapsed, cut = 0, 0.0, False
    start = time.perf_counter()
    while elapsed < seconds and not cut:
        first = not images
        for count in epoch():
            images += count
            elapsed = time.perf_counter() - start
            cut = first and elapsed >= seconds
            if cut:
                break
        if not images:
            raise RuntimeError("an epoch had no images")
    return {"images/s": images / elapsed}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages among `PACKAGES`."""
    found = {"python": platform.python_version()}
    for name in PACKAGES.split():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
