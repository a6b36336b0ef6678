"""A SavedModel on disk: its graph, and what of it is one computation under two names."""

import copy
import hashlib
import pathlib

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.python.framework import function
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from serving.protocol import SignatureDef

SERVE = "serve"  # the tag of the graph that is served

# What a function of TensorFlow 2 is in a loaded graph.
CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def read(path: pathlib.Path) -> tuple[SavedModelLoader, MetaGraphDef]:
    """Reads the graph tagged `serve`; returns what will load it, and the graph.

    Raises:
        ValueError: `saved_model.pb` is damaged, or has no such graph.
        OSError: it is not there.
    """
    try:
        loader = SavedModelLoader(str(path))
    except OSError as error:  # or the file is not there, which it says itself
        if isinstance(error.__cause__, DecodeError):
            raise ValueError("saved_model.pb is damaged") from None
        raise
    try:
        return loader, loader.get_meta_graph_def_from_tags([SERVE])
    except RuntimeError:
        raise ValueError("saved_model.pb holds no graph that is tagged `serve`") from None


def import_functions(graph_def: GraphDef, graph: tf.Graph) -> None:
    """Moves the functions of a graph that will be imported to where it will be, one by one.

    They hold the weights. TensorFlow imports a graph in one step that holds Python's lock, and for
    as long, 50 ms for a MobileNet, no other version answers.
    """
    for each in function.from_library(graph_def.library):
        each.add_to_graph(graph)
    graph_def.ClearField("library")


def computation(definition: SignatureDef, graph_def: GraphDef) -> str | None:
    """Returns a digest of what a signature computes, from which inputs, to which outputs.

    TensorFlow writes a wrapper for each name that a function is saved under; the digest is the
    same for all of them.

    Args:
        definition: of the signature.
        graph_def: the graph, which still has its functions.

    Returns:
        None if the signature is more than one call of a function.
    """
    signature = SignatureDef(inputs=definition.inputs, outputs=definition.outputs)
    fed, names = {}, set()
    for alias, info in signature.inputs.items():
        fed[info.name] = alias
        info.name = ""
    for info in signature.outputs.values():
        name, _, info.name = info.name.partition(":")
        names.add(name)
    calls = [node for node in graph_def.node if node.name in names]
    if len(names) != 1 or len(calls) != 1 or calls[0].op not in CALLS:
        return None
    call = copy.deepcopy(calls[0])
    name = call.attr["f"].func.name
    wrapper = [each for each in graph_def.library.function if each.signature.name == name]
    if len(wrapper) != 1:
        return None
    body = copy.deepcopy(wrapper[0])
    call.input[:] = [fed.get(f"{each}:0", each) for each in call.input]
    call.name = call.attr["f"].func.name = body.signature.name = ""
    for each in body.arg_attr.values():  # what a variable was called while it was traced
        each.attr.pop("_user_specified_name", None)
    found = hashlib.sha256()
    for part in (signature, call, body):
        written = part.SerializeToString(deterministic=True)
        found.update(len(written).to_bytes(8, "big"))
        found.update(written)
    return found.hexdigest()
