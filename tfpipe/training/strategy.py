"""Training on several devices or machines with tf.distribute, which share each batch.

    global batch --+-- worker 0 --+-- replica 0      gradients of all replicas are added, so each
                   |              +-- replica 1      replica makes the same update of its own copy
                   +-- worker 1 --+-- ...            of the weights

A worker is a process, a replica a device of it. Worker 0, the chief, writes the run folder.
"""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
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


class Cluster:
    """The processes that train together; a single one is a cluster too.

    All workers call the same methods in the same order, because each waits for the others.

    Attributes:
        strategy: of tf.distribute.
        worker: number of this process, from 0.
        workers: number of processes.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        """Find the number of this process."""
        self.strategy = strategy
        self.worker, self.workers = 0, 1
        resolver = strategy.cluster_resolver
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            jobs = resolver.cluster_spec().as_dict()
            self.workers = _workers(jobs)
            chiefs = len(jobs.get("chief", [])) if resolver.task_type == "worker" else 0
            self.worker = chiefs + (resolver.task_id or 0)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run folder."""
        return self.worker == 0

    def check(self, batch_size: int) -> None:
        """Raise UserError if the replicas cannot share a batch."""
        replicas = self.strategy.num_replicas_in_sync
        if batch_size % replicas:
            more = -(-batch_size // replicas) * replicas
            raise UserError(
                f"`batch_size={batch_size}` cannot be divided among {replicas} devices: give a"
                f" multiple of {replicas}, such as `batch_size={more}`",
                status=2,
            )

    @contextlib.contextmanager
    def outputs(self, folder: str | os.PathLike) -> Iterator[pathlib.Path]:
        """Yield where this process writes: the folder if it is the chief, else a temporary one.

        All workers must write checkpoints, because reading some variables asks every worker.
        """
        if self.is_chief:
            yield pathlib.Path(folder)
            return
        with tempfile.TemporaryDirectory(prefix="tfpipe-worker-") as own:
            yield pathlib.Path(own)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Return, on each worker, the sum of all workers' integers, [N] of the same N."""
        if self.workers == 1:
            return values
        first = self.worker * _local(self.strategy)

        def one(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            mine = context.replica_id_in_sync_group == first
            return tf.constant(values if mine else np.zeros_like(values))

        spread = self.strategy.experimental_distribute_values_from_function(one)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, spread, axis=None).numpy()

    def barrier(self) -> None:
        """Wait until all workers are here."""
        self.total(np.zeros(1, np.int64))

    def agree(self, value: Any) -> Any:
        """Return the chief's value, JSON-able, on every worker."""
        if self.workers == 1:
            return value
        data = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(np.int64)
        size = int(self.total(np.array([len(data) if self.is_chief else 0]))[0])
        padded = data if self.is_chief else np.zeros(size, np.int64)
        return json.loads(self.total(padded).astype(np.uint8).tobytes())

    def check_same(self, options: dict[str, Any]) -> None:
        """Raise UserError, on all workers, if their options differ.

        Args:
            options: of this worker, JSON-able, by name.
        """
        chiefs = self.agree(options)
        differing = [name for name, value in options.items() if value != chiefs[name]]
        others = np.flatnonzero(self.gathered(np.array([len(differing)])))
        if not others.size:
            return
        if not differing:
            raise UserError(
                f"worker {others[0]} has other options than worker 0: run the same command on all"
                " workers",
                status=2,
            )
        wrong = ", ".join(
            f"`{name}={options[name]}` where worker 0 has {chiefs[name]!r}" for name in differing
        )
        raise UserError(f"{wrong}: run the same command on all workers", status=2)

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """Return the integers of all workers, int64 [W x N], from each one's [N]."""
        padded = np.zeros([self.workers, len(rows)], np.int64)
        padded[self.worker] = rows
        return self.total(padded.ravel())

    @contextlib.contextmanager
    def chief_first(self) -> Iterator[None]:
        """Run the block on the chief first, and then on the others, which read what it wrote."""
        if not self.is_chief:
            self.barrier()
        yield
        if self.is_chief:
            self.barrier()


def _local(strategy: tf.distribute.Strategy) -> int:
    """Return the number of replicas of this process."""
    if strategy.num_replicas_in_sync == 1:
        return 1
    return len(strategy.extended.worker_devices)


def share_out(strategy: tf.distribute.Strategy, batch: Any) -> Any:
    """Split a worker's batch for its replicas, into equal parts of consecutive rows.

    Args:
        strategy: of the replicas.
        batch: a structure of tensors [B, ...].
    """
    replicas = _local(strategy)
    if replicas == 1:
        return batch

    def rows(context: tf.distribute.experimental.ValueContext) -> Any:
        index = context.replica_id_in_sync_group % replicas

        def part(values: tf.Tensor) -> tf.Tensor:
            size = len(values) // replicas
            return values[index * size : (index + 1) * size]

        return tf.nest.map_structure(part, batch)

    return strategy.experimental_distribute_values_from_function(rows)


def joined(strategy: tf.distribute.Strategy, values: Any) -> tf.Tensor:
    """Return the result of `strategy.run` for a shared-out batch as one tensor, [B, ...]."""
    parts = strategy.experimental_local_results(values)
    return parts[0] if len(parts) == 1 else tf.concat(parts, 0)


def summed(values: Any) -> Any:
    """Return a structure of tensors summed over all replicas. Call it in a replica."""
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return values
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


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
