"""Strategies of tf.distribute for several devices or machines, and the loss of a machine."""

import contextlib
import functools
import json
import os
from collections.abc import Iterator

import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line

# Errors of a collective operation, or of the start of a cluster, when a worker is missing.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.FailedPreconditionError,
    tf.errors.DeadlineExceededError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)

LOST_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later

NAMES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")

_CONFIG = "TF_CONFIG"
_EXAMPLE = (
    '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'
)


def choose(name: str) -> tf.distribute.Strategy:
    """Build the strategy of a name. Call it before any other use of TensorFlow.

    Args:
        name: "one_device"; "mirrored", all GPUs of this machine, or all logical CPUs if it has
            none; "multi_worker", one of the processes that TF_CONFIG names; "tpu"; or "auto":
            multi_worker if TF_CONFIG names several workers, mirrored if there are several GPUs,
            else one_device.

    Returns:
        The strategy. A worker waits here until all workers have started.

    Raises:
        UserError: the name is unknown, TF_CONFIG is wrong or missing, or there is no such device.
    """
    if name not in NAMES:
        gone = "parameter servers are gone: " if name == "parameter_server" else ""
        raise UserError(
            f"`strategy={name}`: {gone}give `strategy=multi_worker` on several machines, or one of"
            f" {', '.join(NAMES)}",
            status=2,
        )
    workers = _workers(os.environ.get(_CONFIG, ""))
    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        name = "multi_worker" if workers > 1 else "mirrored" if len(gpus) > 1 else "one_device"
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU" if gpus else "CPU")
        return _mirrored(tuple(device.name for device in devices))
    if name == "tpu":
        return _tpu()
    if not workers:
        raise UserError(
            f"`strategy=multi_worker`: {_CONFIG} names no workers: set it in each worker's"
            f" environment, as {_CONFIG}='{_EXAMPLE}'"
        )
    if workers > 1:
        terminal.say(f"waiting for all {workers} workers of {_CONFIG}")
    return tf.distribute.MultiWorkerMirroredStrategy()


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Return the strategy of some devices, one for all trainings of the process.

    A second one would number its exchanges like the first, whose shapes TensorFlow still knows.
    """
    return tf.distribute.MirroredStrategy(devices)


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, OSError, tf.errors.OpError) as error:
        reason = one_line(str(error).splitlines()[0])
        raise UserError(
            f"`strategy=tpu`: there is no TPU ({reason}): give `strategy=auto`"
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def _workers(text: str) -> int:
    """Return the number of workers that a TF_CONFIG names, the chief included.

    Raises:
        UserError: TensorFlow would not take it.
    """
    if not text.strip():
        return 0
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"is not JSON ({error})") from None
    cluster = config.get("cluster") or {} if isinstance(config, dict) else None
    if not isinstance(cluster, dict):
        raise _wrong("is not an object with a cluster, another object")
    for kind, addresses in cluster.items():
        if kind not in ("chief", "worker", "evaluator"):
            raise _wrong(f"has a task of kind {kind!r}, but only chief and worker can train")
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise _wrong(f'has a "{kind}" that is not a list of HOST:PORT')
    if not cluster:
        return 0
    chiefs, workers = (len(cluster.get(kind, [])) for kind in ("chief", "worker"))
    if chiefs > 1:
        raise _wrong("names several chiefs")
    task = config.get("task")
    if not isinstance(task, dict) or not {"type", "index"} <= set(task):
        raise _wrong('has no "task" with "type" and "index"')
    last = len(cluster.get(str(task["type"]), [])) - 1
    if not (str(task["index"]).isdecimal() and int(task["index"]) <= last):
        raise _wrong(f"has the task {task['type']} {task['index']}, which is not in its cluster")
    return chiefs + workers


def _wrong(what: str) -> UserError:
    return UserError(f"{_CONFIG} {what}: it must be as {_EXAMPLE}, or not be set")


def _is_address(text: object) -> bool:
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16


@contextlib.contextmanager
def explained_losses() -> Iterator[None]:
    """Turn the loss of another worker into an error that says how the training goes on.

    TensorFlow cannot take a worker back into a running cluster, so all of them start again.

    Raises:
        UserError: a worker was lost, with the status `LOST_STATUS`.
    """
    try:
        yield
    except LOST as error:
        if _workers(os.environ.get(_CONFIG, "")) < 2:
            raise
        # TensorFlow puts its graph's nodes and Python's stack before the reason.
        lines = str(error).rpartition("aborted by: ")[2].strip().splitlines()
        reason = one_line(lines[0]) if lines else type(error).__name__
        raise UserError(
            f"another worker was lost ({reason}): start the same command on all workers again; they"
            " resume from the newest checkpoint",
            status=LOST_STATUS,
        ) from None
