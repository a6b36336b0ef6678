"""Run tasks as Apache Beam pipelines, on this machine or on a cluster.

One stage of a build is one pipeline. Its items are created here and spread over the workers, and
each is a call of the task. Results are files in the work folder, as with `workers.Pool`; only names
and descriptions pass through Beam. A task that Beam tries again writes the same files again.

Beam does not bound the memory and time of one image. An image that crashes or hangs a decoder fails
the pipeline, where `workers.Pool` rejects that image alone. So build images from strangers locally.
"""

import contextlib
import functools
import io
import logging
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from tfpipe.core import errors, remote
from tfpipe.core.cores import cores
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.sources import Source

# These pass flags that Beam does not know on to the server that runs the job.
_OPEN_RUNNERS = ("FlinkRunner", "PortableRunner", "SparkRunner")

_PROCESSES = "multi_processing"  # of `direct_running_mode`

# How Beam ends the message of an exception, and how it quotes one of another process.
_STEP = " [while running '"
_QUOTED = re.compile(
    rf"^tfpipe\.core\.errors\.(UserError|ResumableError): (.*?)(?:{re.escape(_STEP)}.*)?$",
    re.MULTILINE,
)


class BeamJob(Protocol):
    """What all tasks share; it can be pickled.

    Attributes:
        sources: of the files that the tasks read.
        work: the folder where they write.
    """

    sources: tuple[Source, ...]
    work: str


class BeamRunner:
    """Runs tasks of one job as Beam pipelines."""

    def __init__(self, job: BeamJob, flags: list[str]):
        """Make a runner with flags from `parse`."""
        self._job, self._flags = job, flags

    def run(self, function: Callable, items: Iterable) -> Iterator[tuple[Any, None]]:
        """Run `function(job, item)` on some worker for each of the items.

        Args:
            function: a task.
            items: its arguments, which travel in the description of the pipeline.

        Yields:
            Each item with None, because none is ever lost; all of them at the end.

        Raises:
            UserError: what the function raised, or that the pipeline failed.
        """
        items = list(items)
        if not items:
            return
        with _quiet():
            import apache_beam
            from apache_beam.options.pipeline_options import PipelineOptions, TypeOptions

            options = PipelineOptions(self._flags)
            # There are no triggers here. Without this option Beam's DirectRunner tries to download
            # a server and to run everything in one process.
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
                raise _explain(error) from None
        for item in items:
            yield item, None


def parse(text: str, workers: int) -> list[str]:
    """Split and check `beam_args`.

    Args:
        text: flags of Beam, as on a shell's command line; "" for threads on this machine.
        workers: the number of these threads; 0 for one on each CPU core.

    Raises:
        UserError: Beam is not installed, or does not understand the flags.
    """
    try:
        with _quiet():
            from apache_beam.options import pipeline_options as beam_options
            from apache_beam.runners.runner import create_runner
    except ImportError:
        raise UserError(
            "`runner=beam` needs Apache Beam, which is not installed: pip install 'tfpipe[beam]'"
        ) from None
    if not text:
        threads = workers or cores()
        text = (
            "--runner=DirectRunner --direct_running_mode=multi_threading"
            f" --direct_num_workers={threads}"
        )
    where = f"`beam_args={text}`"
    parsers: list[Any] = []
    try:
        flags = shlex.split(text)
        with _quiet() as written:
            options = beam_options.PipelineOptions(flags)
            options.get_all_options(add_extra_args_fn=parsers.append)
            unknown = parsers[0].parse_known_args(flags)[1]
            name = options.view_as(beam_options.StandardOptions).runner or "DirectRunner"
            create_runner(name)
    except SystemExit:  # from argparse
        detail = written.getvalue().strip().rpartition("error: ")[2]
        raise UserError(f"{where}: {errors.one_line(detail)}", status=2) from None
    except (ValueError, ImportError) as error:  # from shlex too
        raise UserError(f"{where}: {errors.one_line(error)}", status=2) from None
    if unknown and name not in _OPEN_RUNNERS:
        raise UserError(
            f"{where}: Beam does not know {unknown[0]!r}: give flags of Beam, as in"
            " `beam_args=--runner=FlinkRunner --parallelism=64`",
            status=2,
        )
    if options.view_as(beam_options.DirectOptions).direct_running_mode == _PROCESSES:
        raise UserError(
            f"{where}: with {_PROCESSES} Beam waits for ever if a process is lost: use"
            " multi_threading, or `runner=local` for processes on this machine",
            status=2,
        )
    return flags


def _call(item: Any, function: Callable, job: BeamJob) -> None:
    """Run a task on a worker, which may be another machine."""
    for path in (job.work, *(source.path for source in job.sources)):
        if not remote.is_remote(path) and not os.path.exists(path):
            raise UserError(
                f"{path} does not exist on a machine that Beam works on: give `source` and `out` as"
                " paths that all its machines have, such as gs://bucket/folder"
            )
    function(job, item)


def _explain(error: Exception) -> UserError:
    """Return the error to show for a pipeline that failed."""
    if isinstance(error, UserError):  # the task ran in this process
        return type(error)(str(error).partition(_STEP)[0], status=error.status)
    quoted = _QUOTED.findall(str(error))
    if quoted:
        kind, message = quoted[-1]
        return getattr(errors, kind)(message)
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return ResumableError(f"the Beam pipeline failed: {lines[-1].partition(_STEP)[0].strip()}")


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Hide Beam's logs, a screenful for each stage, and yield what it writes to sys.stderr."""
    level, handlers = logging.root.manager.disable, [*logging.root.handlers]
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as written:
            yield written
    finally:
        logging.disable(level)
        logging.root.handlers[:] = handlers  # without the one that a first message adds
