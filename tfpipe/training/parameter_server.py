"""Training with parameter servers: they hold the weights, which workers change as they are ready.

    chief --batch--> worker 0 --+--> parameter servers: all variables
          --batch--> worker 1 --+
          --batch--> ...

The chief reads the records, hands each batch to a worker that is free, and does all else: it
computes what frozen layers make of the images, saves, and calibrates. Workers and parameter servers
serve it and need no records. No worker waits for another, so a gradient may be of weights that
others have changed since; the chief waits for all of them whenever it reads the loss.
"""

import os
import socket
import sys
import time
from collections.abc import Callable

import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.training import optimizers
from tfpipe.training.config import TrainConfig

Resolver = tf.distribute.cluster_resolver.ClusterResolver

KINDS = CHIEF, WORKER, SERVER = "chief", "worker", "ps"

# How long the chief may be away, as when it begins again after a loss, before its servers end; and
# how often they look.
GRACE_S = 30.0
_LOOK_S = 2.0


def is_asynchronous(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether workers change the weights without waiting for each other."""
    return isinstance(strategy, tf.distribute.experimental.ParameterServerStrategy)


def lead(resolver: Resolver) -> tf.distribute.Strategy:
    """Makes the chief's strategy, when all workers and parameter servers are there.

    Args:
        resolver: of TF_CONFIG, which names a chief, workers and parameter servers.

    Raises:
        UserError: the workers have several GPUs each.
    """
    # Else a call to a server that is gone waits for it without end.
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")
    jobs = resolver.cluster_spec().as_dict()
    terminal.say(
        f"waiting for {len(jobs[WORKER])} workers and {len(jobs[SERVER])} parameter servers of"
        " TF_CONFIG"
    )
    strategy = tf.distribute.experimental.ParameterServerStrategy(resolver)
    if strategy.num_replicas_in_sync > 1:
        raise UserError(
            f"--strategy=parameter_server: each worker has {strategy.num_replicas_in_sync} GPUs:"
            " start one worker for each, with CUDA_VISIBLE_DEVICES"
        )
    return strategy


def serve(resolver: Resolver) -> None:
    """Serves the chief as a worker or parameter server, until it has been gone for a while.

    Args:
        resolver: as of `lead`.
    """
    spec = resolver.cluster_spec()
    (chief,) = spec.as_dict()[CHIEF]
    config = tf.compat.v1.ConfigProto()
    # With fewer threads than workers, those that wait for each other's variables may wait forever.
    config.inter_op_parallelism_threads = max(os.cpu_count() or 1, spec.num_tasks(WORKER) + 1)
    server = tf.distribute.Server(
        spec, job_name=resolver.task_type, task_index=resolver.task_id, config=config
    )
    terminal.say(f"{resolver.task_type} {resolver.task_id} at {server.target}: serving {chief}")
    host, _, port = chief.rpartition(":")
    seen = None
    while seen is None or time.monotonic() - seen < GRACE_S:
        try:
            socket.create_connection((host, int(port)), timeout=_LOOK_S).close()
            seen = time.monotonic()
        except OSError:
            pass  # not there yet, or gone: the loop's condition tells for how long
        time.sleep(_LOOK_S)
    terminal.say(f"the chief at {chief} has ended")


def dispatched(strategy: tf.distribute.Strategy, function: Callable) -> Callable:
    """Returns a tf.function, or what hands its calls to workers, and returns at once."""
    if not is_asynchronous(strategy):
        return function
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    return lambda *args: coordinator.schedule(function, args=args)


def join(strategy: tf.distribute.Strategy) -> None:
    """Waits until the workers have done all that was handed to them."""
    if is_asynchronous(strategy):
        tf.distribute.coordinator.ClusterCoordinator(strategy).join()


def leave(strategy: tf.distribute.Strategy) -> None:
    """Ends the chief's process, when all is written; does nothing where there are no servers.

    At the end of a process TensorFlow waits for every worker, also one that never comes back.
    """
    if is_asynchronous(strategy):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def check(config: TrainConfig) -> None:
    """Raises UserError if a stage's options ask for what parameter servers cannot do."""
    if config.accumulate_steps > 1:
        raise UserError(
            f"--accumulate_steps={config.accumulate_steps}: workers that do not wait for each other"
            " cannot add up their gradients: give 1, or --strategy=multi_worker"
        )
    if not hasattr(optimizers.build(config.optimizer, config.learning_rate), "build"):
        raise UserError(
            f"--optimizer={config.optimizer} makes its variables in the first step, too late for"
            " parameter servers: give adam, or --strategy=multi_worker"
        )


def check_precision(precision: str) -> None:
    """Raises UserError if Keras' policy is one that parameter servers cannot train with."""
    if precision == "mixed_float16":
        raise UserError(
            "--precision=mixed_float16: the scale of its loss cannot be shared by workers that do"
            " not wait for each other: give float32, or --strategy=multi_worker"
        )
