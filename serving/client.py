"""Asks a server what images show.

    python -m serving.client --server=127.0.0.1:8500 --model_name=demo photo.jpg other.png

The server may be this project's (python -m serving.server) or TensorFlow Serving: both speak the
same protocol. Standard output gets a line for each image: the label, how sure the model is of it,
and the probability of each class, p0 being that of class 0. An image that cannot be read, or that
the server refuses, is named on standard error and makes the exit status 1.
"""

import argparse
import functools
from collections.abc import Mapping, Sequence

import grpc
import numpy as np

from serving import cli, protocol, tensors
from serving.answers import PRINTERS, Classification
from serving.images import batches

IMAGE_INPUT = "image_bytes"
IMAGE_OUTPUTS = ("probabilities", "class_index", "class_name")

MAX_ANSWER_BYTES = 64 << 20


class ServerError(cli.UserError):
    """A server that cannot be reached, or that refused a request.

    Attributes:
        code: the gRPC status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


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
        timeout: float = 10.0,
    ):
        """Connects at the first call. `timeout` bounds each request, in seconds."""
        self.address = address
        self.model = model
        self.signature = signature
        self.timeout = timeout
        options = {
            "grpc.max_receive_message_length": MAX_ANSWER_BYTES,
            "grpc.enable_http_proxy": 0,  # the address is the server's; a proxy rarely speaks gRPC
        }
        self._channel = grpc.insecure_channel(address, options=list(options.items()))
        self._service = protocol.PredictionServiceStub(self._channel)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def predict(
        self, inputs: Mapping[str, object], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs the signature.

        Args:
            inputs: for each input an array, or what NumPy makes one of.
            outputs: the outputs wanted; none means all.

        Returns:
            An array for each output; strings are bytes in arrays of objects.

        Raises:
            ServerError: there is no answer, or it is a refusal.
        """
        request = protocol.PredictRequest(output_filter=outputs)
        request.model_spec.name = self.model
        request.model_spec.signature_name = self.signature
        for alias, value in inputs.items():
            request.inputs[alias].CopyFrom(tensors.to_proto(value))
        response = self._call(self._service.Predict, request)
        try:
            return {alias: tensors.from_proto(proto) for alias, proto in response.outputs.items()}
        except ValueError:
            raise self._unreadable() from None

    @functools.cached_property
    def signatures(self) -> dict[str, protocol.SignatureDef]:
        """The model's signatures, asked for once."""
        request = protocol.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self.model
        response = self._call(self._service.GetModelMetadata, request)
        signatures = protocol.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return dict(signatures.signature_def)

    def classify_images(self, images: Sequence[bytes]) -> list[Classification | ServerError]:
        """Asks what images show.

        Args:
            images: whole image files, sent as one request.

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
                self._check_signature()
            if not refused:
                raise
            if len(images) == 1:
                return [error]
            half = len(images) // 2  # one of them is at fault: halve until it is alone
            return self.classify_images(images[:half]) + self.classify_images(images[half:])
        try:
            return _classifications(outputs, len(images))
        except (ValueError, IndexError, TypeError, AttributeError):
            raise self._unreadable() from None

    def _check_signature(self) -> None:
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

    def _call(self, method: grpc.UnaryUnaryMultiCallable, request):
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise ServerError(error.code(), self._explain(error)) from None

    def _explain(self, error: grpc.RpcError) -> str:
        """Says what a refusal means and what to do about it."""
        code, details = error.code(), error.details()
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


def _classifications(outputs: Mapping[str, np.ndarray], count: int) -> list[Classification]:
    rows = zip(range(count), *(outputs[alias].tolist() for alias in IMAGE_OUTPUTS), strict=True)
    return [
        Classification(
            name.decode(errors="replace"), index, probabilities[index], (*probabilities,)
        )
        for _, probabilities, index, name in rows
    ]


def main() -> int:
    """Classifies the files named on the command line; 1 if one of them has no answer."""
    flags = parse()
    cli.quiet(flags.verbosity)
    answers: list[tuple[str, Classification]] = []
    try:
        with Client(
            flags.server, flags.model_name, signature=flags.signature, timeout=flags.timeout
        ) as client:
            for batch in batches(flags.images, flags.batch_size):
                classified = client.classify_images([image for _, image in batch])
                for (path, _), answer in zip(batch, classified, strict=True):
                    if isinstance(answer, ServerError):
                        cli.error(f"{path} may be damaged: {answer}")
                    else:
                        answers.append((path, answer))
    finally:
        PRINTERS[flags.output](answers)
    return 0 if len(answers) == len(flags.images) else 1


def parse() -> argparse.Namespace:
    """Reads the command line; raises UserError for wrong flags."""
    parser = cli.Parser("python -m serving.client", __doc__)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="JPEG, PNG, GIF or BMP files")
    add("--server", metavar="HOST:PORT", default="127.0.0.1:8500", help="its gRPC address")
    add("--model_name", metavar="NAME", default="default", help="the model to ask")
    add(
        "--signature",
        metavar="NAME",
        default=protocol.DEFAULT_SIGNATURE,
        help="the signature to run",
    )
    add(
        "--timeout",
        metavar="S",
        type=cli.number(float, 0.001),
        default=10.0,
        help="seconds to wait for each answer",
    )
    add(
        "--batch_size",
        metavar="N",
        type=cli.number(int, 1),
        default=32,
        help="the most images to send at a time",
    )
    add("--output", choices=sorted(PRINTERS), default="table", help="how to print the answers")
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
