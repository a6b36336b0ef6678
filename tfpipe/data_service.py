"""Runs a dispatcher or a worker of a tf.data service, which makes batches for trainers.

    python -m tfpipe.data_service --role=dispatcher --port=5050 --work_dir=DIR
    python -m tfpipe.data_service --role=worker --port=5051 --dispatcher=127.0.0.1:5050
    python -m tfpipe.train --data_service=grpc://127.0.0.1:5050 ...

One dispatcher hands out shards; the workers read, decode and batch them; any number of trainers
read the batches. A worker may join or leave at any time. What one was killed with is not seen
again in that epoch; one that comes back has the same --worker_address and --port. With --work_dir
a dispatcher that is started again goes on where it was. SIGTERM and Ctrl-C stop either.

The service asks nobody who they are, its traffic is not encrypted, and TensorFlow binds --port on
every network interface. Whoever reaches the port can run any TensorFlow graph, and so read and
write files, as the user who started it: let a firewall keep it to the machines that take part.

Workers open the records at the paths that the trainer names: on several machines, these lie on a
file system that all share.
"""

import dataclasses
import os
import socket
from typing import NoReturn

from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.core.options import option
from tfpipe.core.signals import Signals

# How often the dispatcher looks for workers that died.
WATCH_S = 1.0

# How often a worker reports to the dispatcher, and so how long a new job waits for one at most.
HEARTBEAT_S = 1.0

# A job that no trainer reads, as that of one which was killed, is dropped after this.
TRAINER_LOST_S = 60.0
JOB_UNUSED_S = 300.0


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    role: str = option("what to run", choices=("dispatcher", "worker"))
    port: int = option("the port to listen at, on every network interface; 0 takes a free one", 0)
    work_dir: str = option(
        "dispatcher: the folder for its journal, from which it goes on when it is started again;"
        " empty keeps all in memory, and trainers fail when it ends",
        "",
    )
    lost_after_s: float = option(
        "dispatcher: after how many seconds out of reach a worker's part of an epoch is given up",
        10.0,
    )
    dispatcher: str = option("worker: the dispatcher, as host:port", "")
    worker_address: str = option(
        "worker: the host, or host:port, at which the trainers and the dispatcher reach it",
        "127.0.0.1",
    )
    dispatcher_timeout_s: float = option(
        "worker: how many seconds to wait for the dispatcher at the start", 30.0
    )


def main(options: Options) -> None:
    """Runs the server until SIGTERM or SIGINT.

    Raises:
        UserError: a flag is wrong, the port is taken, the dispatcher does not answer, or
            `work_dir` cannot be written to.
    """
    _check(options)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # it needs no GPU, and would take one's memory
    if options.role == "dispatcher":
        _dispatch(options)
    else:
        _work(options)


def _check(options: Options) -> None:
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port={options.port}: give 0 to 65535 (0 takes a free one)", status=2)
    for name in ("lost_after_s", "dispatcher_timeout_s"):
        if not getattr(options, name) > 0:
            raise UserError(f"--{name}={getattr(options, name)}: give seconds above 0", status=2)
    if options.role == "worker" and not options.dispatcher:
        raise UserError(
            "--dispatcher is missing: a worker belongs to one, as in --dispatcher=127.0.0.1:5050",
            status=2,
        )
    other = {"dispatcher": "dispatcher", "worker": "work_dir"}[options.role]
    if getattr(options, other):
        raise UserError(f"--{other} has no meaning with --role={options.role}: omit it", status=2)
    if options.port:
        _check_free(options.port)


def _check_free(port: int) -> None:
    """Raises UserError for a port in use, which gRPC would share with whoever listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--port={port}: cannot listen there ({error.strerror}): stop the program that"
                " does, or choose another port (0 takes a free one)"
            ) from None


def _dispatch(options: Options) -> None:
    from tensorflow.core.protobuf import service_config_pb2
    from tensorflow.data.experimental import service

    # The message has settings that service.DispatcherConfig lacks.
    config = service_config_pb2.DispatcherConfig(
        port=options.port,
        protocol="grpc",
        work_dir=options.work_dir,
        fault_tolerant_mode=bool(options.work_dir),
        client_timeout_ms=int(TRAINER_LOST_S * 1000),
        job_gc_timeout_ms=int(JOB_UNUSED_S * 1000),
        gc_dynamic_sharding_jobs=True,
    )
    try:
        server = service.DispatchServer(config)
    except RuntimeError as error:
        raise UserError(
            f"cannot start the dispatcher with --work_dir={options.work_dir}: {one_line(error)}:"
            " name a folder that can be written to and holds no other dispatcher's journal"
        ) from None
    address = server._address.replace("localhost", "127.0.0.1")
    signals = Signals()
    terminal.say(f"dispatcher ready on grpc://{address}")
    _watch_workers(address, options.lost_after_s, signals)
    _end()


def _work(options: Options) -> None:
    from tfpipe.input import endpoint

    dispatcher = options.dispatcher.removeprefix(endpoint.SCHEME)
    endpoint.check(options.dispatcher, "--dispatcher")
    address = options.worker_address
    if ":" not in address:
        address += ":%port%"  # TensorFlow puts the port here
    else:
        endpoint.check(address, "--worker_address")
    endpoint.wait_for_dispatcher(options.dispatcher, "--dispatcher", options.dispatcher_timeout_s)
    from tensorflow.data.experimental import service

    config = service.WorkerConfig(
        dispatcher_address=dispatcher,
        worker_address=address,
        port=options.port,
        protocol="grpc",
        heartbeat_interval_ms=int(HEARTBEAT_S * 1000),
    )
    try:
        server = service.WorkerServer(config)
    except RuntimeError as error:
        raise UserError(
            f"--dispatcher={options.dispatcher} does not take this worker: {one_line(error)}: see"
            " that a dispatcher of the same TensorFlow runs there"
        ) from None
    port = server._address.rpartition(":")[2]
    signals = Signals()
    terminal.say(f"worker ready on {address.replace('%port%', port)} for {dispatcher}")
    signals.wait()
    _end()


def _watch_workers(address: str, after_s: float, signals: Signals) -> None:
    """Gives up the parts of lost workers, until a signal comes."""
    import grpc

    from tfpipe.input.lost_workers import LostWorkers

    workers = LostWorkers(address, after_s)
    while not signals.wait(WATCH_S):
        try:
            lost, back = workers.check()
        except grpc.RpcError as error:
            terminal.warn(f"cannot look after the workers: {error.details()}")
            continue
        for worker in lost:
            terminal.warn(
                f"worker {worker} is out of reach: the others go on without it, and what it had"
                " begun is missing in this epoch"
            )
        for worker in back:
            terminal.say(f"worker {worker} is back")


def _end() -> NoReturn:
    """Ends the process at once.

    A server that is stopped, or deleted, first waits for the calls in flight, which may never end,
    and lets no other thread of Python run meanwhile. The journal is written through at each entry.
    """
    terminal.say("stopped")
    os._exit(0)


if __name__ == "__main__":
    cli.run(main, Options)
