"""Joins the requests of many clients into batches, by the kernel that TensorFlow Serving uses."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

from serving.config import Batching
from serving.protocol import SignatureDef
from serving.saved_model import CALLS


class Way:
    """What is done with the inputs; each an int8, to be fed beside them.

    Attributes:
        JOINED: they are run by the kernel, with others.
        ALONE: they are run as they are, past the kernel, which takes two changes of threads.
        BUILT: nothing. It fails; but before, what is to run them is built, which takes a processor
            half a second or more. A data set, which has threads that stay, is not begun.
    """

    JOINED, ALONE, BUILT = np.arange(3, dtype=np.int8)


class Batched(NamedTuple):
    """What to feed and fetch in place of a signature's own tensors.

    Attributes:
        way: to be fed beside the inputs.
        outputs: by name.
    """

    way: tf.Tensor
    outputs: dict[str, tf.Tensor]


def batched(graph: tf.Graph, definition: SignatureDef, batching: Batching) -> Batched | None:
    """Adds operations to a graph that compute the outputs of a signature in batches.

    Args:
        graph: of a SavedModel.
        definition: of one of its signatures.
        batching: the parameters.

    Returns:
        None if the signature cannot be batched: the first dimension of an input or output is not
        free, or it is not one call of a function, as SavedModels of TensorFlow 1 are not.
    """
    infos = [*definition.inputs.values(), *definition.outputs.values()]
    if not definition.inputs or not all(map(_is_free, infos)):
        return None
    inputs = [graph.get_tensor_by_name(info.name) for info in definition.inputs.values()]
    outputs = {
        alias: graph.get_tensor_by_name(info.name) for alias, info in definition.outputs.items()
    }
    calls = {tensor.op for tensor in outputs.values()}
    call = calls.pop()
    # Behind its inputs a function takes its variables, which are no part of a batch.
    own = [tensor.ref() for tensor in call.inputs[: len(inputs)]]
    if calls or call.type not in CALLS or set(own) != {tensor.ref() for tensor in inputs}:
        return None
    largest = batching.max_execution_batch_size
    is_split = largest < batching.max_batch_size
    sizes = list(batching.allowed_batch_sizes)
    if is_split and not sizes:  # the kernel finds the largest batch there, and fills none up
        sizes = list(range(1, largest + 1))
    captured = list(call.inputs[len(inputs) :])
    kinds = [tensor.dtype for tensor in call.outputs]
    with graph.as_default():
        function = _optimized(call, len(inputs))
        way = tf.compat.v1.placeholder(tf.int8, [])
        is_joined, is_run = tf.equal(way, Way.JOINED), tf.not_equal(way, Way.BUILT)
        ways = [
            tf.raw_ops.Switch(data=tensor, pred=is_joined) for tensor in call.inputs[: len(inputs)]
        ]
        # What tf.nondifferentiable_batch_function makes of a Python function.
        joined = tf.raw_ops.BatchFunction(
            in_tensors=[each.output_true for each in ways],
            captured_tensors=[tf.constant(True), *captured],
            f=function,
            num_batch_threads=batching.num_batch_threads,
            max_batch_size=batching.max_batch_size,
            batch_timeout_micros=batching.batch_timeout_micros,
            Tout=kinds,
            max_enqueued_batches=batching.max_enqueued_batches,
            allowed_batch_sizes=sizes,
            shared_name=f"batch_{call.name}",
            enable_large_batch_splitting=is_split,
        )
        direct = tf.raw_ops.StatefulPartitionedCall(
            args=[*(each.output_false for each in ways), is_run, *captured],
            Tout=kinds,
            f=function,
            config_proto=config(optimize=False).SerializeToString(),
        )
        found = [tf.raw_ops.Merge(inputs=pair).output for pair in zip(joined, direct, strict=True)]
    return Batched(way, {alias: found[each.value_index] for alias, each in outputs.items()})


def config(*, optimize: bool) -> tf.compat.v1.ConfigProto:
    """Returns how a graph, or the function that a call runs, is optimized when it runs first.

    Each time takes 0.1 to 0.2 s, also for nothing but calls, and a second pass as long again.
    """
    found = tf.compat.v1.ConfigProto()
    rewrite = found.graph_options.rewrite_options
    rewrite.disable_meta_optimizer = not optimize
    rewrite.meta_optimizer_iterations = rewrite.ONE
    return found


def _optimized(call: tf.Operation, inputs: int) -> ConcreteFunction:
    """Returns the function of a call, wrapped so that it is optimized for the devices it runs on.

    Behind the inputs, of which there are `inputs`, it takes whether they are to be run; it fails if
    not. (Switched off it would not be built as a whole: TensorFlow inlines no call with side
    effects that may have dead inputs.)

    The batching kernel runs its function as it is. A call within that, which stays one, is
    optimized when it runs first: without it, no convolution is fused with its bias and activation,
    and a MobileNet takes 1.15 times as long.
    """
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in call.inputs]
    specs.insert(inputs, tf.TensorSpec([], tf.bool))
    kinds = [tensor.dtype for tensor in call.outputs]

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def inner(*args: tf.Tensor) -> list[tf.Tensor]:
        is_run, captured = args[inputs], args[inputs + 1 :]
        checked = tf.raw_ops.Assert(condition=is_run, data=["is only built"])
        with tf.control_dependencies([checked]):
            fed = [tf.identity(each) for each in args[:inputs]]
        return getattr(tf.raw_ops, call.type)(
            args=[*fed, *captured], Tout=kinds, f=call.get_attr("f")
        )

    within = inner.get_concrete_function(*specs)
    settings = config(optimize=True).SerializeToString()

    # A session that optimizes its graph leaves out what tf.data calls, as that is optimized when it
    # runs first; so would this be, for no device and in vain.
    @tf.function(autograph=False, experimental_attributes={"_tf_data_function": True})
    def outer(*args: tf.Tensor) -> list[tf.Tensor]:
        return tf.raw_ops.StatefulPartitionedCall(
            args=args, Tout=kinds, f=within, config_proto=settings
        )

    found = outer.get_concrete_function(*specs)
    found.add_to_graph(call.graph)
    return found


def _is_free(info) -> bool:
    shape = info.tensor_shape
    return not shape.unknown_rank and len(shape.dim) > 0 and shape.dim[0].size == -1
