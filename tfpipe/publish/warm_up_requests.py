"""Writes the warm-up requests of a version; see `tfpipe.protocol.warm_up_file`."""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.model.signatures import IMAGE, METHODS
from tfpipe.protocol import tensors
from tfpipe.protocol.messages import (
    ClassificationRequest,
    PredictionLog,
    PredictRequest,
    RegressionRequest,
    SignatureDef,
    TensorProto,
)
from tfpipe.protocol.warm_up_file import FILE, MAX_RECORDS
from tfpipe.publish.sample_images import SampleImages
from tfpipe.records import tfrecord

_GREY = 128


def write(
    folder: pathlib.Path,
    signatures: dict[str, SignatureDef],
    sizes: Sequence[int],
    samples: SampleImages,
    *,
    name: str,
) -> int:
    """Write a request for each signature of a SavedModel and each batch size in images.

    Returns:
        The number of requests.

    Raises:
        UserError: TensorFlow Serving accepts fewer.
    """
    logs = [log for size in sizes for log in _logs(signatures, samples.cycle(size), name)]
    if len(logs) > MAX_RECORDS:
        raise UserError(
            f"--serving_batch_sizes: {len(sizes)} sizes make {len(logs)} requests to warm up with,"
            f" and TensorFlow Serving takes {MAX_RECORDS:,}: give fewer sizes",
            status=2,
        )
    path = folder / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(tfrecord.frame(log.SerializeToString()) for log in logs))
    return len(logs)


def _logs(
    signatures: dict[str, SignatureDef], images: list[bytes], name: str
) -> Iterator[PredictionLog]:
    for key, definition in sorted(signatures.items()):
        log = PredictionLog()
        if METHODS.get(key) == definition.method_name:
            request: ClassificationRequest | RegressionRequest = getattr(log, f"{key}_log").request
            examples = request.input.example_list.examples
            for image in images:
                examples.add().features.feature[IMAGE].bytes_list.value.append(image)
        else:
            request = log.predict_log.request
            _fill(request, definition, images)
        request.model_spec.name = name
        request.model_spec.signature_name = key
        yield log


def _fill(request: PredictRequest, definition: SignatureDef, images: list[bytes]) -> None:
    for alias, info in definition.inputs.items():
        if len(info.tensor_shape.dim) == 1:
            proto = tensors.to_proto(np.array(images, object))
        else:  # decoded images: one number fills all of them
            proto = TensorProto(dtype=info.dtype, int_val=[_GREY], tensor_shape=info.tensor_shape)
            proto.tensor_shape.dim[0].size = len(images)
        request.inputs[alias].CopyFrom(proto)
