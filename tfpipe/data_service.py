"""Run a dispatcher or a worker of a tf.data service, which makes batches for trainers.

    tfpipe data-service --role=dispatcher --port=5050 --work_dir=DIR
    tfpipe data-service --role=worker --port=5051 --dispatcher=127.0.0.1:5050
    tfpipe train --data_service=grpc://127.0.0.1:5050 ...

One dispatcher hands out shards; the workers read, decode and batch them; any number of trainers
read the batches. A worker may join at any time. If one dies, start it again with the same
--worker_address and --port: trainers wait for it, and miss the shards that it had begun in this
epoch. A dispatcher that starts again with the same --port and --work_dir continues its jobs.
SIGTERM and Ctrl-C stop either.

The service has no authentication and no encryption, and TensorFlow binds --port on every network
interface. Whoever reaches the port can run any TensorFlow graph, and so read and write files, as
the user who started it: let a firewall admit only the machines that take part.

Workers open the records at the paths that the trainer names: on several machines, put them on a
shared file system.
"""

import dataclasses
import os
import socket
from typing import NoReturn

from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.core.options import option
from tfpipe.core.signals import Signals

# Interval of a worker's reports to the dispatcher: a new job waits up to this for a worker.
HEARTBEAT_S = 1.0

# A trainer that is silent for the first is lost; a job without trainers ends after the second.
TRAINER_LOST_S = 60.0
JOB_UNUSED_S = 300.0


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    role: str = option("what to run", choices=("dispatcher", "worker"))
    port: int = option(
        "the port to listen at, on every network interface; 0 takes a free one",
        0,
        minimum=0,
        maximum=65535,
    )
    work_dir: str = option(
        "dispatcher: the folder for its journal, which lets it continue after a restart; without"
        " one, trainers fail when it ends",
        "",
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
    """Run the server until SIGTERM or SIGINT."""
    _check(options)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # it needs no GPU, but would take a GPU's memory
    if options.role == "dispatcher":
        _dispatch(options)
    else:
        _work(options)


def _check(options: Options) -> None:
    if not options.dispatcher_timeout_s > 0:
        raise UserError(
            f"--dispatcher_timeout_s={options.dispatcher_timeout_s}: give seconds above 0", status=2
        )
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
    """Raise UserError for a port in use: gRPC would share it with the other program."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--port={port}: cannot listen there ({error.strerror}): stop the program that"
                " does, or choose another port (0 takes a free one)"
            ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


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
    _serve(f"dispatcher ready on {server.target.replace('localhost', '127.0.0.1')}")


def _work(options: Options) -> None:
    from tfpipe.input import endpoint

    dispatcher = options.dispatcher.removeprefix(endpoint.SCHEME)
    endpoint.check(options.dispatcher, "dispatcher")
    port = options.port or _free_port()  # TensorFlow tells nobody which port it took
    address = options.worker_address
    if ":" not in address:
        address += f":{port}"
    else:
        endpoint.check(address, "worker_address")
    endpoint.wait_for_dispatcher(options.dispatcher, "dispatcher", options.dispatcher_timeout_s)
    from tensorflow.data.experimental import service

    config = service.WorkerConfig(
        dispatcher_address=dispatcher,
        worker_address=address,
        port=port,
        protocol="grpc",
        heartbeat_interval_ms=int(HEARTBEAT_S * 1000),
    )
    try:
        server = service.WorkerServer(config)  # noqa: F841 - runs while it is referenced
    except RuntimeError as error:
        raise UserError(
            f"--dispatcher={options.dispatcher} does not take this worker: {one_line(error)}: see"
            " that a dispatcher of the same TensorFlow runs there"
        ) from None
    _serve(f"worker ready on {address} for {dispatcher}")


def _serve(ready: str) -> NoReturn:
    """Wait for a signal, then end the process at once.

    A server that is stopped or deleted waits for the calls in flight, which may never end, and
    blocks all Python threads meanwhile. The journal is already on the disk.
    """
    signals = Signals()
    terminal.say(ready)
    signals.wait()
    terminal.say("stopped")
    os._exit(0)


if __name__ == "__main__":
    cli.run(main, Options)
