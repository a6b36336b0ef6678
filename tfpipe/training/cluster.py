"""The processes and devices of a training, and what they exchange.

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

from tfpipe.core.errors import UserError


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
            chiefs, workers = (len(jobs.get(kind, [])) for kind in ("chief", "worker"))
            self.workers = chiefs + workers
            before = chiefs if resolver.task_type == "worker" else 0
            self.worker = before + (resolver.task_id or 0)

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
        """Raise UserError, on all workers, if their options, JSON-able by name, differ."""
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
    """Split arrays or tensors [B, ...] for a worker's replicas: equal parts of consecutive rows.

    Each part is copied to its replica's device at once, and to no other. A TPU takes its parts from
    the host.
    """
    replicas = _local(strategy)
    if replicas == 1:
        return batch
    devices = strategy.extended.worker_devices

    def rows(context: tf.distribute.experimental.ValueContext) -> Any:
        index = context.replica_id_in_sync_group % replicas
        is_tpu = tf.DeviceSpec.from_string(devices[index]).device_type == "TPU"

        def part(values: np.ndarray | tf.Tensor) -> tf.Tensor:
            size = len(values) // replicas
            own = slice(index * size, (index + 1) * size)
            # Where the tensor is: TensorFlow would cut it on the first GPU.
            with tf.device(values.device if isinstance(values, tf.Tensor) else None):
                values = values[own]
            with tf.device(None if is_tpu else devices[index]):
                return tf.identity(values)

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
