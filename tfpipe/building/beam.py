"""Runs the tasks of a build as Apache Beam pipelines, on this machine or on a cluster.

One stage of a build is one pipeline: its items are created here, spread over the workers, and each
is a call of the task. What a task finds or writes is in files of the work folder, as with
`workers.Pool`; nothing but names and descriptions passes through Beam. A task that Beam tries again
writes the same files again.

Beam knows no bound on the memory and the time of one image: an image that a decoder hangs on, or
that ends the process, fails the pipeline, where `workers.Pool` rejects that image alone. So images
from strangers are better built on one machine.
"""

import contextlib
import functools
import io
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from tfpipe.core import errors, remote
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.sources import Source

# These hand flags that Beam itself does not know to the server that runs the job.
_OPEN_RUNNERS = ("FlinkRunner", "PortableRunner", "SparkRunner")

# Beam's: the first one starts a process here and waits for its end, the others hear from it.
_THREADS = ("run_worker", "read_grpc_client_inputs", "beam_control_read")

# How Beam ends the message of what a task raised, and how it quotes what another process raised.
_STEP = " [while running '"
_QUOTED = re.compile(
    rf"^tfpipe\.errors\.(UserError|ResumableError): (.*?)(?:{re.escape(_STEP)}.*)?$", re.MULTILINE
)


class Job(Protocol):
    """What all tasks share: `tasks.Job`, or another that can be pickled.

    Attributes:
        sources: of the files that the tasks read.
        work: the folder where they write.
    """

    sources: tuple[Source, ...]
    work: str


class Runner:
    """Runs tasks of one job as Beam pipelines."""

    def __init__(self, job: Job, flags: list[str]):
        """Makes a runner of what `parse` returned."""
        self._job, self._flags = job, flags

    def run(self, function: Callable, items: Iterable) -> Iterator[tuple[Any, None]]:
        """Runs `function(job, item)` on some worker for each of the items.

        Args:
            function: one of `tasks`, or another of a job and an item.
            items: what it is called with. They travel in the description of the pipeline.

        Yields:
            Each item with None, as none is ever lost; all at the end, as Beam tells nothing before.

        Raises:
            UserError: what the function raised, or that the pipeline failed.
        """
        items = list(items)
        if not items:
            return
        with _quiet(), _watched():
            import apache_beam
            from apache_beam.options.pipeline_options import PipelineOptions, TypeOptions

            options = PipelineOptions(self._flags)
            # There are no triggers here. Without this Beam's DirectRunner tries to download a
            # server and to run everything in one process.
            options.view_as(TypeOptions).allow_unsafe_triggers = True
            task = functools.partial(_call, function=function, job=self._job)
            try:
                with apache_beam.Pipeline(options=options) as pipeline:
                    _ = (
                        pipeline
                        | "items" >> apache_beam.Create(items)
                        | "spread" >> apache_beam.Reshuffle()
                        | function.__name__ >> apache_beam.Map(task)
                    )
            except Exception as error:  # Beam's own are of many kinds
                raise _explained(error) from None
        for item in items:
            yield item, None


def parse(text: str, workers: int) -> list[str]:
    """Splits and checks `--beam_args`.

    Args:
        text: flags of Beam, as on a shell's command line; "" for processes on this machine.
        workers: their number then; 0 for one on each CPU core.

    Raises:
        UserError: Beam is not installed, or does not understand the flags.
    """
    with _quiet():
        try:
            from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
            from apache_beam.runners.runner import create_runner
        except ImportError:
            raise UserError(
                "--runner=beam needs Apache Beam, which is not installed: pip install"
                " 'tfpipe[beam]'"
            ) from None
    if not text:
        return [
            "--runner=DirectRunner",
            "--direct_running_mode=multi_processing",
            f"--direct_num_workers={workers}",
        ]
    where = f"--beam_args={text}"
    said = io.StringIO()
    parsers: list[Any] = []
    try:
        flags = shlex.split(text)
        with _quiet(), contextlib.redirect_stderr(said):
            options = PipelineOptions(flags)
            options.get_all_options(add_extra_args_fn=parsers.append)
            unknown = parsers[0].parse_known_args(flags)[1]
            name = options.view_as(StandardOptions).runner or "DirectRunner"
            create_runner(name)
    except SystemExit:  # argparse's way
        detail = said.getvalue().strip().rpartition("error: ")[2]
        raise UserError(f"{where}: {errors.one_line(detail)}", status=2) from None
    except (ValueError, ImportError) as error:  # from shlex too
        raise UserError(f"{where}: {errors.one_line(error)}", status=2) from None
    if unknown and name not in _OPEN_RUNNERS:
        raise UserError(
            f"{where}: Beam does not know {unknown[0]!r}: give flags of Beam, as in"
            ' --beam_args="--runner=DirectRunner --direct_running_mode=multi_processing'
            ' --direct_num_workers=2"',
            status=2,
        )
    return flags


def _call(item: Any, function: Callable, job: Job) -> None:
    """Runs a task on a worker, which may be another machine."""
    for path in (job.work, *(source.path for source in job.sources)):
        if not remote.is_remote(path) and not os.path.exists(path):
            raise UserError(
                f"{path} is not there on a machine that Beam works on: name paths that all its"
                " machines have, as gs://bucket/folder, for --source and --out"
            )
    function(job, item)


def _explained(error: Exception) -> UserError:
    """Returns what a person is told of a pipeline that failed."""
    if isinstance(error, UserError):  # the task ran in this process
        return type(error)(str(error).partition(_STEP)[0], status=error.status)
    quoted = _QUOTED.findall(str(error))
    if quoted:
        kind, message = quoted[-1]
        return getattr(errors, kind)(message)
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return ResumableError(f"the Beam pipeline failed: {lines[-1].partition(_STEP)[0].strip()}")


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Has the block end with a UserError when a process that Beam started here is lost.

    Beam's DirectRunner would wait for it for ever. What its threads raise is not shown, also when
    they do so after the block has failed.
    """
    ends: list[str] = []
    watching = True
    before = threading.excepthook

    def end(raised: threading.ExceptHookArgs) -> None:
        name = getattr(raised.thread, "name", "")
        if name not in _THREADS:
            before(raised)
        elif watching and name == _THREADS[0]:
            ends.append(str(raised.exc_value))
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.excepthook = end
    try:
        yield
        threading.excepthook = before
    except KeyboardInterrupt:
        # Ctrl-C ends the processes as well.
        if not ends or ends[0].endswith(str(-signal.SIGINT)):
            raise
        raise ResumableError(
            f"a process that Beam started ended ({ends[0]}), perhaps at a damaged image or for lack"
            " of memory: --runner=local finds such an image, and leaves it out"
        ) from None
    finally:
        watching = False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what Beam logs here, and what its processes on this machine print.

    It logs a screenful for each stage, and the traceback of an error five times over.
    """
    level, handlers = logging.root.manager.disable, [*logging.root.handlers]
    logging.disable(logging.CRITICAL)
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    # What this process itself has to say, as its progress, still arrives.
    ours, sys.stderr = sys.stderr, os.fdopen(os.dup(terminal), "w", buffering=1)
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = ours
        os.dup2(terminal, 2)
        os.close(terminal)
        logging.disable(level)
        logging.root.handlers[:] = handlers  # without the one that a first message sets up
