"""The last checks before a version is published.

A real server answers as the evaluation did, and the graph refuses tensors of wrong shapes.
"""

import contextlib
import pathlib
import queue
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.protocol.client import Client
from tfpipe.protocol.transport import ServerError
from tfpipe.publish.sample_images import SampleImages

# The largest difference of a probability; batches of other sizes are summed in another order.
TOLERANCE = 1e-5

# Seconds for a server to load and warm up a version, and to answer a batch.
_START_S = 300.0
_ANSWER_S = 120.0
_BATCH = 32

_NAME = "candidate"
_READY = re.compile(r"serving \S+ version \d+ at (\S+)")


def check(folder: pathlib.Path, samples: SampleImages) -> float:
    """Serve a SavedModel in a fresh process, and return the largest difference of a probability.

    Raises:
        UserError: the server does not start, or answers with an error or other probabilities; or
            the graph takes a wrong shape.
    """
    with tempfile.TemporaryDirectory() as base, contextlib.ExitStack() as stack:
        (pathlib.Path(base) / "1").symlink_to(folder.resolve())
        address = stack.enter_context(_served(folder, base))
        try:
            with Client(address, _NAME, timeout=_ANSWER_S) as client:
                found = [
                    client.predict({"image_bytes": list(samples.files[at : at + _BATCH])})
                    for at in range(0, len(samples.files), _BATCH)
                ]
        except ServerError as error:
            raise UserError(f"not exported: the test server says: {error}") from None
    served = {key: np.concatenate([each[key] for each in found]) for key in found[0]}
    advice = "this is a fault of tfpipe, please report it"
    return samples.check(served, TOLERANCE, of="served {}", advice=advice)


@contextlib.contextmanager
def _served(folder: pathlib.Path, base: str) -> Iterator[str]:
    """Run the embedded server after `candidate`'s check; yield its address."""
    command = [sys.executable, "-m", "tfpipe.publish.candidate", str(folder)]
    process = subprocess.Popen(
        [*command, "--port=0", f"--model_name={_NAME}", f"--model_base_path={base}"],
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
    )
    try:
        yield _address(process)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _address(process: subprocess.Popen) -> str:
    """Return the address of a server when it is ready; raises UserError with its last line."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:  # in a thread, because a read has no time limit
        with contextlib.suppress(ValueError):  # the pipe was closed
            for line in process.stderr:
                lines.put(line.rstrip())
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    last = "nothing"
    with contextlib.suppress(queue.Empty):
        while line := lines.get(timeout=_START_S):
            if match := _READY.match(line):
                return match[1]
            last = line
    raise UserError(f"not exported: a server cannot load it, and says: {last}")
