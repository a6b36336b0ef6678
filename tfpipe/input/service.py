"""Batches that the workers of a tf.data service make, on this machine or on others.

A job is one reading of one dataset by all trainers that name it. Its shards are handed out one by
one to whichever worker asks next, so that each record is seen at most once, by one trainer, in an
order that no seed determines. What a worker had begun when it was killed is not seen in that job.

See https://www.tensorflow.org/api_docs/python/tf/data/experimental/service.
"""

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.data.experimental import service

from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.input import endpoint, tuning

FLAG = "--data_service"

# How long to wait for a dispatcher that starts beside us: it imports TensorFlow first.
START_S = 30.0

# How long to wait for one that was there and may be started again.
RETURN_S = 300.0


def parse(address: str) -> str:
    """Checks the address of a dispatcher, "grpc://host:port" or "" for no service, and returns it.

    Raises:
        UserError: it is neither.
    """
    if address:
        endpoint.check(address, FLAG)
        if not address.startswith(endpoint.SCHEME):
            raise UserError(
                f"{FLAG}={address} does not begin with {endpoint.SCHEME}: give"
                f" {FLAG}={endpoint.SCHEME}{address}"
            )
    return address


def distribute(
    dataset: tf.data.Dataset,
    address: str,
    *,
    job: str,
    batch_size: int,
    consumer: tuple[int, int] | None = None,
    timeout_s: float = START_S,
) -> tf.data.Dataset:
    """Lets the workers of a service make the batches.

    Without `consumer`, trainers of one job take batches as they come: together they see each
    record at most once, and how many steps each makes depends on its speed. A job that was read
    to its end is over: whoever names it again gets nothing.

    With `consumer`, the trainers read in rounds: in each step all get a batch, and all of one
    worker, so that they make the same number of steps. The dataset is repeated without end, since
    no trainer may run dry before the others: take() as many steps as an epoch has. Records may
    then be seen again before others were seen once. When a worker dies or joins, all pause for a
    second or two and go on in step.

    Args:
        dataset: batches, of which the last ones may be short. Its source, such as
            from_tensor_slices, is what is divided among the workers: let it hold shards, several
            for each worker, and interleave records from them. It is run by other processes: their
            files must lie there at the same paths, and it must not call Python.
        address: of the dispatcher, as `parse` returns it.
        job: the same for all trainers that share the dataset, and another for each epoch and each
            attempt at it.
        batch_size: of the batches returned, B.
        consumer: which of how many trainers that read in rounds this one is, from 0.
        timeout_s: how long to wait for the dispatcher, in seconds.

    Returns:
        Batches of B; without `consumer` the last one may be short.

    Raises:
        UserError: no dispatcher answers, or it refuses the dataset.
    """
    endpoint.wait_for_dispatcher(address, FLAG, timeout_s)
    if consumer is not None:
        dataset = dataset.repeat().rebatch(batch_size, drop_remainder=True)
    # Named, because two processes that build the same graph may number its functions otherwise; the
    # dispatcher makes a file of this name.
    name = hashlib.sha256(job.encode()).hexdigest()
    try:
        # Not compressed: decoded photographs are hardly any smaller.
        service.register_dataset(address, dataset, compression=None, dataset_id=name)
        batches = service.from_dataset_id(
            service.ShardingPolicy.DYNAMIC,
            address,
            name,
            element_spec=dataset.element_spec,
            job_name=job,
            consumer_index=None if consumer is None else consumer[0],
            num_consumers=None if consumer is None else consumer[1],
        )
    except tf.errors.OpError as error:
        # Without the names of TensorFlow's nodes around it.
        reason = one_line(re.sub(r"\{\{.*?\}\} | \[Op:\w*\]", "", error.message))
        raise UserError(
            f"{FLAG}={address} does not take the dataset of job {job}: {reason}: see that a"
            " dispatcher of the same TensorFlow runs there and that the job's name is new"
        ) from None
    if consumer is None:
        batches = batches.rebatch(batch_size)
    return tuning.without_autotune(batches.prefetch(tuning.AHEAD))


@contextlib.contextmanager
def guard(address: str, *, timeout_s: float = RETURN_S) -> Iterator[None]:
    """Ends the process, with one line, when the dispatcher has gone and does not come back.

    TensorFlow waits for it for ever, in calls that nothing interrupts: no exception could be raised
    where a trainer waits for its next batch, and an iterator could not be deleted.

    Args:
        address: of the dispatcher, as `parse` returns it; "" guards nothing.
        timeout_s: how long to wait for it to come back, in seconds.
    """
    if not address:
        yield
        return
    done = threading.Event()
    threading.Thread(target=_watch, args=(address, timeout_s, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(address: str, timeout_s: float, done: threading.Event) -> None:
    seen = time.monotonic()
    away = False
    while not done.wait(endpoint.CONNECT_S):
        if endpoint.is_reachable(address):
            if away:
                terminal.say(f"{FLAG}={address}: the dispatcher is back")
            seen, away = time.monotonic(), False
        elif time.monotonic() - seen >= timeout_s:
            terminal.error(
                f"{FLAG}={address}: the dispatcher has been away for {timeout_s:g} s: start it with"
                " the same --port and --work_dir, then run this command again"
            )
            os._exit(1)
        elif not away:
            terminal.warn(
                f"{FLAG}={address}: the dispatcher is away; waiting {timeout_s:g} s for it to be"
                " started again with the same --port and --work_dir"
            )
            away = True
