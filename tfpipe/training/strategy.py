"""Strategies of tf.distribute for several devices or machines, and the loss of a machine."""

import contextlib
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
    cluster = _cluster_of(os.environ.get(_CONFIG, ""))
    if name == "auto":
        if _workers(cluster) > 1:
            name = "multi_worker"
        else:
            name = "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one_device"
    return _MAKERS[name](cluster)


def _one_device(cluster: dict) -> tf.distribute.Strategy:
    del cluster
    return tf.distribute.get_strategy()


def _mirrored(cluster: dict) -> tf.distribute.Strategy:
    del cluster
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([d.name for d in tf.config.list_logical_devices(kind)])


def _multi_worker(cluster: dict) -> tf.distribute.Strategy:
    workers = _workers(cluster)
    if not workers:
        raise UserError(
            f"`strategy=multi_worker`: {_CONFIG} names no workers: set it in each worker's"
            f" environment, as {_CONFIG}='{_EXAMPLE}'"
        )
    if workers > 1:
        terminal.say(f"waiting for all {workers} workers of {_CONFIG}")
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu(cluster: dict) -> tf.distribute.Strategy:
    del cluster
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


_MAKERS = {
    "one_device": _one_device,
    "mirrored": _mirrored,
    "multi_worker": _multi_worker,
    "tpu": _tpu,
}
NAMES = ("auto", *_MAKERS)


def _workers(cluster: dict) -> int:
    return len(cluster.get("chief", [])) + len(cluster.get("worker", []))


def _cluster_of(text: str) -> dict[str, list[str]]:
    """Return the addresses of each kind of task that a TF_CONFIG names.

    Raises:
        UserError: TensorFlow would not take it.
    """
    if not text.strip():
        return {}

    def wrong(what: str) -> UserError:
        return UserError(f"{_CONFIG} {what}: it must be as {_EXAMPLE}, or not be set")

    try:
        config = json.loads(text)
    except ValueError as error:
        raise wrong(f"is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise wrong("is not an object")
    cluster = config.get("cluster") or {}
    if not isinstance(cluster, dict):
        raise wrong('has a "cluster" that is not an object')
    for kind, addresses in cluster.items():
        if kind not in ("chief", "worker", "evaluator"):
            raise wrong(f"has a task of kind {kind!r}, but only chief and worker can train")
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise wrong(f'has a "{kind}" that is not a list of HOST:PORT')
    if not cluster:
        return {}
    if len(cluster.get("chief", [])) > 1:
        raise wrong("names several chiefs")
    task = config.get("task")
    if not isinstance(task, dict) or not {"type", "index"} <= set(task):
        raise wrong('has no "task" with "type" and "index"')
    if task["type"] not in cluster:
        raise wrong(f"has the task type {task['type']!r}, which is not in its cluster")
    last = len(cluster[task["type"]]) - 1
    if not (str(task["index"]).isdigit() and int(task["index"]) <= last):
        raise wrong(f"has the task index {task['index']!r}, not 0 to {last}")
    return cluster


def _is_address(text: object) -> bool:
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    return bool(host) and port.isdigit() and 0 < int(port) < 2**16


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
        if _workers(_cluster_of(os.environ.get(_CONFIG, ""))) < 2:
            raise
        reason = one_line(str(error).strip().splitlines()[0])
        raise UserError(
            f"another worker was lost ({reason}): start the same command on all workers again; they"
            " go on from the newest checkpoint",
            status=LOST_STATUS,
        ) from None
