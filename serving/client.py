"""Classify images with a server.

    tfpipe client --server=127.0.0.1:8500 --model_name=demo photo.jpg folder ...

The server is this project's (tfpipe serve) or TensorFlow Serving, over gRPC, or over
REST with --server=http://127.0.0.1:8501. An argument is an image file, a folder (its images in the
order of their names), a TFRecord file (.tfrecord), or - for one image on standard input. Standard
output gets a line for each image: the label, its probability, and the probability of each class. An
image that cannot be read, or that the server refuses, is reported on standard error and makes the
exit status 1.
"""

import collections
import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from concurrent import futures

import grpc

from serving.classifications import PRINTERS
from serving.connection_options import ConnectionOptions
from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import arguments, option
from tfpipe.protocol.client import BUSY, AsyncClient, Classification, Client
from tfpipe.protocol.images import ImageFile, ImagePaths, batches, find
from tfpipe.protocol.transport import InputError, ServerError, VersionStatus

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "InputError",
    "ServerError",
    "VersionStatus",
]

# What to do about an error, by its gRPC status.
_HINTS = {
    grpc.StatusCode.UNAVAILABLE: (
        "start a server with: tfpipe serve --model_name=NAME --model_base_path=DIR"
        " (--server names another address)"
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        "allow more time (--timeout), or send fewer images at a time (--batch_size)"
    ),
    grpc.StatusCode.NOT_FOUND: "name another model (--model_name) or version (--version)",
    grpc.StatusCode.FAILED_PRECONDITION: "name another signature (--signature_name)",
}
_BUSY_HINT = "send fewer requests at a time (--concurrency), or retry more often (--retries)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ConnectionOptions):
    """The flags of this command."""

    images: tuple[str, ...] = arguments("IMAGE", "files, folders, TFRecord files, or -")
    threshold: float | None = option(
        "the least probability of the second of two classes to be the label; empty for the most"
        " probable class",
        None,
        minimum=0,
        maximum=1,
        group="Requests and output",
        common=True,
    )
    retries: int = option("retries of a request while the server is unavailable", 4, minimum=0)
    batch_size: int = option("images in a request, at most", 32, minimum=1)
    concurrency: int = option("requests at the same time", 2, minimum=1, maximum=256)
    output: str = option(
        "form of the output", "table", choices=tuple(sorted(PRINTERS)), common=True
    )


def main(options: Options) -> int:
    """Classify the images; return 1 if one of them has no answer."""
    sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not be valid UTF-8
    answers: list[tuple[str, Classification]] = []
    names: tuple[str, ...] = ()
    found = find(options.images)
    try:
        with (
            explained(),
            connect(options, retries=options.retries) as client,
            terminal.progress("classifying", found.count) as advance,
        ):
            for batch, classified in _classified(client, options, found):
                for image, answer in zip(batch, classified, strict=True):
                    if isinstance(answer, ServerError):
                        terminal.error(f"{image.name} may be damaged: {answer}")
                    else:
                        answers.append((image.name, answer))
                advance(len(batch))
            try:
                names = client.labels
            except ServerError as error:  # or else the model has no signature `classify`
                if error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    terminal.warn(f"the names of the classes are unknown: {error}")
    finally:
        PRINTERS[options.output](answers, names)
    return 0 if len(answers) == found.seen and not found.missing else 1


def _classified(
    client: Client, options: Options, found: ImagePaths
) -> Iterator[tuple[list[ImageFile], list[Classification | ServerError]]]:
    """Yield the batches with their answers in order; several requests run at the same time."""

    def ask(batch: list[ImageFile]) -> list[Classification | ServerError]:
        return client.classify_images([each.data for each in batch], threshold=options.threshold)

    asked: collections.deque = collections.deque()
    with futures.ThreadPoolExecutor(options.concurrency) as pool:
        try:
            for batch in batches(found, options.batch_size):
                asked.append((batch, pool.submit(ask, batch)))
                if len(asked) > options.concurrency:
                    first, answer = asked.popleft()
                    yield first, answer.result()
            for batch, answer in asked:
                yield batch, answer.result()
        finally:
            pool.shutdown(cancel_futures=True)


def connect(options: ConnectionOptions, *, retries: int) -> Client:
    """Return the client for these flags; raises UserError if one has no use."""
    fields = (field.name for field in dataclasses.fields(ConnectionOptions))
    given = {name: getattr(options, name) for name in fields}
    given |= {"metadata": options.read_metadata(), "compression": options.read_compression()}
    return Client(**given, retries=retries)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Add what to do, in terms of flags, to an error of the server."""
    try:
        yield
    except ServerError as error:
        busy = error.code is grpc.StatusCode.UNAVAILABLE and BUSY.search(str(error))
        hint = _BUSY_HINT if busy else _HINTS.get(error.code)
        raise UserError(f"{error}: {hint}" if hint else str(error)) from None


if __name__ == "__main__":
    cli.run(main, Options, tuned=False)
