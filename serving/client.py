"""Asks a server what images show.

    python -m serving.client --server=127.0.0.1:8500 --model_name=demo photo.jpg folder ...

The server may be this project's (python -m serving.server) or TensorFlow Serving: both speak the
same protocol, over gRPC or, as --server=http://127.0.0.1:8501, over REST. A name is an image file,
a folder, whose images are taken in the order of their names, a TFRecord file (.tfrecord), or - for
one image on standard input. Standard output gets a line for each image: the label, how sure the
model is of it, and the probability of each class, p0 being that of class 0. An image that cannot be
read, or that the server refuses, is named on standard error and makes the exit status 1.
"""

import argparse
import collections
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures

import grpc
import numpy as np

from serving import cli, protocol, transport
from serving.answers import PRINTERS, Classification
from serving.images import Image, batches, find
from serving.transport import ServerError

IMAGE_INPUT = "image_bytes"
IMAGE_OUTPUTS = ("probabilities", "class_index", "class_name")
ERROR_OUTPUT = "error"

# How the embedded server and TensorFlow Serving refuse what is too much, beside UNAVAILABLE.
BUSY = re.compile("try again later|queue .*is full")


class Client:
    """Speaks to one model of a server; safe to use from several threads.

    with Client("127.0.0.1:8500", "demo") as client:
        client.predict({"image_bytes": [jpeg]})["probabilities"]  # float32 [1, classes]
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        signature: str = protocol.DEFAULT_SIGNATURE,
        version: int = 0,
        label: str = "",
        timeout: float = 10.0,
        retries: int = 4,
        tls: bool = False,
        ca_file: str = "",
        cert_file: str = "",
        key_file: str = "",
    ):
        """Connects at the first call.

        Args:
            address: HOST:PORT for gRPC, http://HOST:PORT or https://HOST:PORT for REST.
            model: its name.
            signature: what `predict` and `classify_images` run.
            version: the number of a version; 0 for the highest.
            label: of a version, in place of its number.
            timeout: bounds each request, in seconds.
            retries: how often a request is sent again while the server is unavailable.
            tls: whether to speak gRPC over TLS; any of the files says so too.
            ca_file: PEM certificates that the server's is checked by; empty for the system's.
            cert_file: the client's own PEM certificate; empty for none.
            key_file: its PEM key.

        Raises:
            UserError: one of the files cannot be read, or the address is of neither form.
        """
        self.address = address
        self.model = model
        self.signature = signature
        self.timeout = timeout
        self._retries = retries
        files = (ca_file, cert_file, key_file)
        keys = transport.Tls(*files) if tls or any(files) else None
        way = transport.Rest if "://" in address else transport.Grpc
        self._way = way(address, transport.Model(model, version, label), keys)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._way.close()

    def predict(
        self, inputs: Mapping[str, object], outputs: Sequence[str] = (), *, signature: str = ""
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            inputs: for each input an array, or what NumPy makes one of.
            outputs: the outputs wanted; none means all.
            signature: another than the client's.

        Returns:
            An array for each output; strings are bytes in arrays of objects.

        Raises:
            ServerError: there is no answer, or it is a refusal.
        """
        key = signature or self.signature
        try:
            return self._call(lambda: self._way.predict(inputs, outputs, key, self.timeout))
        except (ValueError, KeyError, TypeError):
            raise self._unreadable() from None

    def metadata(self) -> transport.Metadata:
        """Asks which version of the model is served now, and for its signatures.

        Raises:
            ServerError: there is no answer, or it is a refusal.
        """
        try:
            return self._call(lambda: self._way.metadata(self.timeout))
        except (ValueError, KeyError, TypeError):
            raise self._unreadable() from None

    @functools.cached_property
    def signatures(self) -> dict[str, protocol.SignatureDef]:
        """The model's signatures, asked for once."""
        return self.metadata().signatures

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of all classes in the order of their probabilities, asked for once.

        Raises:
            ServerError: there is no answer, or the model has no signature `classify`.
        """
        answer = self.predict({"inputs": [b""]}, ["classes"], signature="classify")["classes"]
        return tuple(name.decode(errors="replace") for name in answer[0].tolist())

    def classify_images(
        self, images: Sequence[bytes], *, threshold: float | None = None
    ) -> list[Classification | ServerError]:
        """Asks what images show.

        Args:
            images: whole image files, sent as one request.
            threshold: of two classes, the probability of the second from which it is the label;
                None for the more probable class.

        Returns:
            For each image the answer, or the error if the server refuses that image.

        Raises:
            ServerError: there is no answer, or the signature does not classify images.
        """
        if not images:
            return []
        try:
            outputs = self.predict({IMAGE_INPUT: list(images)})
            if not set(IMAGE_OUTPUTS) <= set(outputs):
                raise ServerError(grpc.StatusCode.FAILED_PRECONDITION, "outputs are missing")
        except ServerError as error:
            refused = error.code is grpc.StatusCode.INVALID_ARGUMENT
            if refused or error.code is grpc.StatusCode.FAILED_PRECONDITION:
                self.check_signature()
            if not refused:
                raise
            if len(images) == 1:
                return [error]
            # A model that tells no errors by image: one of them is at fault, halve until it is
            # alone.
            half = len(images) // 2
            return [
                answer
                for part in (images[:half], images[half:])
                for answer in self.classify_images(part, threshold=threshold)
            ]
        try:
            return self._classifications(outputs, len(images), threshold)
        except (ValueError, IndexError, TypeError, AttributeError):
            raise self._unreadable() from None

    def _classifications(
        self, outputs: Mapping[str, np.ndarray], count: int, threshold: float | None
    ) -> list[Classification | ServerError]:
        none = np.full(count, b"", object)
        columns = [outputs[alias].tolist() for alias in IMAGE_OUTPUTS]
        rows = zip(range(count), *columns, outputs.get(ERROR_OUTPUT, none).tolist(), strict=True)
        found: list[Classification | ServerError] = []
        for _, probabilities, index, name, reason in rows:
            if reason:
                message = f"{self.address} answers: {reason.decode(errors='replace')}"
                found.append(ServerError(grpc.StatusCode.INVALID_ARGUMENT, message))
                continue
            label = name.decode(errors="replace")
            if threshold is not None and len(probabilities) == 2:
                chosen = int(probabilities[1] >= threshold)
                index, label = chosen, label if chosen == index else self.labels[chosen]
            found.append(Classification(label, index, probabilities[index], (*probabilities,)))
        return found

    def check_signature(self) -> None:
        """Raises ServerError if the signature does not map images to classes."""
        fitting = [
            name
            for name, definition in sorted(self.signatures.items())
            if set(definition.inputs) == {IMAGE_INPUT}
            and set(IMAGE_OUTPUTS) <= set(definition.outputs)
        ]
        if self.signature not in fitting:
            raise ServerError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"model {self.model!r} has no signature {self.signature!r} that classifies images;"
                f" those that do: {', '.join(fitting) or 'none'} (--signature)",
            )

    def _unreadable(self) -> ServerError:
        return ServerError(
            grpc.StatusCode.INTERNAL,
            f"{self.address} answers with outputs that cannot be read or do not fit the request",
        )

    def _call(self, call: Callable):
        try:
            return transport.repeated(call, self._retries)
        except ServerError as error:
            raise ServerError(error.code, self._explain(error)) from None

    def _explain(self, error: ServerError) -> str:
        """Says what a refusal means and what to do about it."""
        code, details = error.code, str(error)
        if code is grpc.StatusCode.UNAVAILABLE and BUSY.search(details):
            return (
                f"{self.address} has too much to do ({details}): send fewer requests at a time"
                " (--concurrency), or try again more often (--retries)"
            )
        if code is grpc.StatusCode.UNAVAILABLE:
            return (
                f"no server answers at {self.address} ({details}); start one with: python -m"
                f" serving.server --model_name={self.model} --model_base_path=export/{self.model}"
                f" --port={self.address.rpartition(':')[2]}"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return (
                f"{self.address} did not answer within {self.timeout:g} s: allow more time"
                " (--timeout), or send fewer images at a time (--batch_size)"
            )
        if code is grpc.StatusCode.NOT_FOUND:
            return f"{self.address} serves no model {self.model!r} (--model_name): {details}"
        return f"{self.address} answers {code.name}: {details}"


def main() -> int:
    """Classifies the images named on the command line; 1 if one of them has no answer."""
    flags = parse()
    cli.quiet(flags.verbosity)
    answers: list[tuple[str, Classification]] = []
    found = find(flags.images)
    try:
        with (
            connect(flags) as client,
            cli.progress(found.count) as advance,
        ):
            for batch, classified in _classified(client, flags, batches(found, flags.batch_size)):
                for image, answer in zip(batch, classified, strict=True):
                    if isinstance(answer, ServerError):
                        cli.error(f"{image.name} may be damaged: {answer}")
                    else:
                        answers.append((image.name, answer))
                advance(len(batch))
    finally:
        PRINTERS[flags.output](answers)
    return 0 if len(answers) == found.seen and not found.missing else 1


def _classified(
    client: Client, flags: argparse.Namespace, found: Iterable[list[Image]]
) -> Iterator[tuple[list[Image], list[Classification | ServerError]]]:
    """Yields batches with their answers in order, some of them asked at the same time."""

    def ask(batch: list[Image]) -> list[Classification | ServerError]:
        return client.classify_images([each.data for each in batch], threshold=flags.threshold)

    with futures.ThreadPoolExecutor(flags.concurrency) as pool:
        asked: collections.deque = collections.deque()
        try:
            for batch in found:
                asked.append((batch, pool.submit(ask, batch)))
                if len(asked) > flags.concurrency:
                    first, answer = asked.popleft()
                    yield first, answer.result()
            while asked:
                first, answer = asked.popleft()
                yield first, answer.result()
        finally:
            for _, answer in asked:
                answer.cancel()


def connect(flags: argparse.Namespace, *, retries: int | None = None) -> Client:
    """Returns the client that `connection_flags` ask for.

    Args:
        flags: what they were read to.
        retries: in place of --retries, which not every command has.

    Raises:
        UserError: one of the files cannot be read, or the address is of no known form.
    """
    return Client(
        flags.server,
        flags.model_name,
        signature=flags.signature,
        version=flags.version,
        label=flags.version_label,
        timeout=flags.timeout,
        retries=flags.retries if retries is None else retries,
        tls=flags.tls,
        ca_file=flags.ca_file,
        cert_file=flags.cert_file,
        key_file=flags.key_file,
    )


def connection_flags(parser: cli.Parser) -> None:
    """Adds the flags that say which model of which server is asked, and how it is reached."""
    add = parser.add_argument
    add(
        "--server",
        metavar="HOST:PORT",
        default="127.0.0.1:8500",
        help="its gRPC address, or http://HOST:PORT for REST",
    )
    add("--model_name", metavar="NAME", default="default", help="the model to ask")
    add(
        "--signature",
        metavar="NAME",
        default=protocol.DEFAULT_SIGNATURE,
        help="the signature to run",
    )
    add(
        "--version",
        metavar="N",
        type=cli.number(int, 0),
        default=0,
        help="the version to ask; 0 for the highest",
    )
    add("--version_label", metavar="LABEL", default="", help="its label, in place of the number")
    add(
        "--timeout",
        metavar="S",
        type=cli.number(float, 0.001),
        default=10.0,
        help="seconds to wait for each answer",
    )
    add("--tls", action="store_true", help="speak gRPC over TLS; the files below say so too")
    add("--ca_file", metavar="PEM", default="", help="what the server's certificate is checked by")
    add("--cert_file", metavar="PEM", default="", help="the client's own certificate")
    add("--key_file", metavar="PEM", default="", help="its key")


def parse() -> argparse.Namespace:
    """Reads the command line; raises UserError for wrong flags."""
    parser = cli.Parser("python -m serving.client", __doc__)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="files, folders, TFRecord files, or -")
    connection_flags(parser)
    add(
        "--threshold",
        metavar="P",
        type=cli.number(float, 0, 1),
        default=None,
        help="of two classes, the probability of the second from which it is the label",
    )
    add(
        "--retries",
        metavar="N",
        type=cli.number(int, 0),
        default=4,
        help="how often to ask again while the server is unavailable",
    )
    add(
        "--batch_size",
        metavar="N",
        type=cli.number(int, 1),
        default=32,
        help="the most images to send at a time",
    )
    add(
        "--concurrency",
        metavar="N",
        type=cli.number(int, 1, 256),
        default=2,
        help="requests at the same time",
    )
    add("--output", choices=sorted(PRINTERS), default="table", help="how to print the answers")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
