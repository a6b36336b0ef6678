"""Batches made by the workers of a tf.data service, on this machine or on others.

A job is one pass over one dataset. The dispatcher hands its shards to the workers one by one, so
each record is seen at most once, in an order that no seed determines.

See https://www.tensorflow.org/api_docs/python/tf/data/experimental/service.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.data.experimental import service

from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.input import endpoint, tuning

OPTION = "data_service"

START_S = 30.0  # to wait for a dispatcher that starts beside us: it imports TensorFlow first
WARN_S = 10.0  # to wait for a batch before a warning
STALL_S = 300.0  # to wait for a batch before the process ends


def parse(address: str) -> str:
    """Check a dispatcher's address, "grpc://host:port" or "" for no service, and return it.

    Raises:
        UserError: it is neither.
    """
    if address:
        endpoint.check(address, OPTION)
        if not address.startswith(endpoint.SCHEME):
            raise UserError(
                f"`{OPTION}={address}` does not begin with {endpoint.SCHEME}: give"
                f" `{OPTION}={endpoint.SCHEME}{address}`"
            )
    return address


def distribute(
    dataset: tf.data.Dataset,
    address: str,
    *,
    job: str,
    batch_size: int,
    timeout_s: float = START_S,
) -> tf.data.Dataset:
    """Let the workers of a service make the batches; read the result with `watched`.

    Trainers of one job take batches as they come. Together they see each record at most once. A
    job that was read to its end is over: whoever names it again gets nothing.

    Args:
        dataset: batches; the last ones may be short. Its source, such as
            from_tensor_slices, is divided among the workers: let it hold shards, several for each
            worker, and interleave records from them. Other processes run it: files must have the
            same paths there, and it must not call Python.
        address: of the dispatcher, from `parse`.
        job: the same for all trainers that share the dataset, and a new one for each epoch.
        batch_size: of the batches returned, B.
        timeout_s: seconds to wait for the dispatcher.

    Returns:
        Batches of B; the last one may be short.

    Raises:
        UserError: no dispatcher answers, or it refuses the dataset.
    """
    endpoint.wait_for_dispatcher(address, OPTION, timeout_s)
    # Give the dataset a name: two processes that build the same graph may number its functions
    # differently. The dispatcher makes a file of this name.
    name = hashlib.sha256(job.encode()).hexdigest()
    try:
        # Without compression: decoded photographs hardly shrink.
        service.register_dataset(address, dataset, compression=None, dataset_id=name)
        batches = service.from_dataset_id(
            service.ShardingPolicy.DYNAMIC,
            address,
            name,
            element_spec=dataset.element_spec,
            job_name=job,
        )
    except tf.errors.OpError as error:
        # Without the names of TensorFlow's nodes around it.
        reason = one_line(re.sub(r"\{\{.*?\}\} | \[Op:\w*\]", "", error.message))
        raise UserError(
            f"`{OPTION}={address}` does not take the dataset of job {job}: {reason}: check that a"
            " dispatcher of the same TensorFlow runs there and that the job's name is new"
        ) from None
    return tuning.without_autotune(batches.rebatch(batch_size).prefetch(tuning.AHEAD))


def watched(
    dataset: tf.data.Dataset, address: str, *, warn_s: float = WARN_S, stall_s: float = STALL_S
) -> Iterator[Any]:
    """Yield the batches of `distribute`, and end the process if none comes for too long.

    TensorFlow waits for ever for a dispatcher or a worker that died, in calls that nothing
    interrupts, also where it deletes an iterator. So no exception could end the wait.

    Args:
        dataset: from `distribute`.
        address: of the dispatcher.
        warn_s: seconds to wait for a batch before a warning.
        stall_s: seconds to wait before the process exits with status 1.
    """
    waiting_since: list[float | None] = [time.monotonic()]  # None while the caller has the batch
    done = threading.Event()
    watch = (address, waiting_since, done, warn_s, stall_s)
    threading.Thread(target=_watch, args=watch, daemon=True).start()
    iterator = iter(dataset)
    try:
        for batch in iterator:
            waiting_since[0] = None
            yield batch
            waiting_since[0] = time.monotonic()
    finally:
        waiting_since[0] = time.monotonic()
        del iterator
        done.set()


def _watch(
    address: str,
    waiting_since: list[float | None],
    done: threading.Event,
    warn_s: float,
    stall_s: float,
) -> None:
    warned = False
    while not done.wait(min(1.0, warn_s)):
        since = waiting_since[0]
        waited = 0.0 if since is None else time.monotonic() - since
        if waited < warn_s:
            if warned:
                terminal.say(f"data service {address}: batches come again")
            warned = False
            continue
        if warned and waited < stall_s:
            continue
        if endpoint.is_reachable(address):
            cause = "no batch has come"
            advice = "start a worker that died again, at the same address"
        else:
            cause = "the dispatcher has been away"
            advice = "start it again, with the same port and work_dir"
        if waited >= stall_s:
            terminal.error(
                f"data service {address}: {cause} for {stall_s:g} s: {advice}, then run this"
                " command again"
            )
            os._exit(1)
        terminal.warn(
            f"data service {address}: {cause} for {warn_s:g} s; waiting up to {stall_s:g} s:"
            f" {advice}"
        )
        warned = True
