"""Feeds tensors of wrong shapes to every signature of a SavedModel, as TensorFlow Serving would.

TensorFlow Serving compares no shapes with the signature, so the graph itself must refuse them. Run
this in a process of its own: some kernels end the process at a shape that they do not expect.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core.errors import one_line

SERVE = tf.saved_model.SERVING

v1 = tf.compat.v1


def wrong_shapes(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return shapes of another rank or size than [N, *sizes]."""
    found = [(), (1, *sizes, 1), (2, 2, *sizes)]
    if sizes:
        found += [(1,), (*sizes,), (1, *sizes[:-1]), (1, *[0] * len(sizes))]
        found.append((1, *(2 * size for size in sizes)))
    for place, size in enumerate(sizes):
        for other in (0, size - 1, size + 1):
            found.append((1, *sizes[:place], other, *sizes[place + 1 :]))
    return list(dict.fromkeys(found))


def find(folder: str) -> str:
    """Try every signature with one input.

    Returns:
        The first try that is not refused as INVALID_ARGUMENT, or "".
    """
    with v1.Session(graph=tf.Graph()) as session:
        try:
            signatures = v1.saved_model.load(session, [SERVE], folder).signature_def
        except OSError:  # the server says why
            return ""
        for name, definition in sorted(signatures.items()):
            outputs = [info.name for info in definition.outputs.values()]
            for info in definition.inputs.values() if len(definition.inputs) == 1 else ():
                for shape in wrong_shapes([dim.size for dim in info.tensor_shape.dim[1:]]):
                    what = f"{name} with the shape {list(shape)}"
                    value = np.zeros(shape, tf.as_dtype(info.dtype).as_numpy_dtype)
                    value = np.full(shape, b"", object) if value.dtype == object else value
                    try:
                        session.run(outputs, {info.name: value})
                    except tf.errors.InvalidArgumentError:
                        continue
                    except Exception as error:
                        return f"{what} is not refused: {type(error).__name__}: {one_line(error)}"
                    return f"{what} is not refused"
    return ""
