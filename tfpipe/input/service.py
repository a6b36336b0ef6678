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
    """Return an address that is "grpc://host:port", or "" for none; raise UserError for others."""
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
        dataset: batches; the last ones may be short. Its source is divided among the workers: let
            it hold shards, several for each worker, and interleave records from them. Other
            processes run it: files must have the same paths there, and it must not call Python.
        address: of the dispatcher, from `parse`.
        job: the same for all trainers that share the dataset, and a new one for each epoch.
        batch_size: of the batches returned; the last one may be short.
        timeout_s: seconds to wait for the dispatcher.

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
    interrupts, also where it deletes an iterator. So no exception could end the wait: after
    `warn_s` seconds without a batch there is a warning, and after `stall_s` an exit with status 1.
    """
    waiting_since: float | None = time.monotonic()  # None while the caller has the batch
    done = threading.Event()

    def watch() -> None:
        warned = False
        while not done.wait(min(1.0, warn_s)):
            since = waiting_since
            waited = 0.0 if since is None else time.monotonic() - since
            if warned and waited < warn_s:
                terminal.say(f"data service {address}: batches come again")
            if waited >= stall_s:
                cause, advice = _diagnosis(address)
                advice += ", then run this command again"
                terminal.error(f"data service {address}: {cause} for {stall_s:g} s: {advice}")
                os._exit(1)
            if waited >= warn_s and not warned:
                cause, advice = _diagnosis(address)
                cause += f" for {warn_s:g} s; waiting up to {stall_s:g} s"
                terminal.warn(f"data service {address}: {cause}: {advice}")
            warned = waited >= warn_s

    threading.Thread(target=watch, daemon=True).start()
    iterator = iter(dataset)
    try:
        for batch in iterator:
            waiting_since = None
            yield batch
            waiting_since = time.monotonic()
    finally:
        waiting_since = time.monotonic()
        del iterator
        done.set()


def _diagnosis(address: str) -> tuple[str, str]:
    """Return why no batch comes, and what to do."""
    if endpoint.is_reachable(address):
        return "no batch has come", "start a worker that died again, at the same address"
    return "the dispatcher has been away", "start it again, with the same port and work_dir"
