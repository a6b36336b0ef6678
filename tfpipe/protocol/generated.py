"""Imports generated message classes without the rest of TensorFlow, which takes seconds."""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """Allow imports of generated modules inside the package `tensorflow` without its `__init__`.

    An empty package with the same search path stands in for `tensorflow` meanwhile. A later
    `import tensorflow` runs as usual and finds the same message classes.
    """
    name = "tensorflow"
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:  # imported already, or not installed: the imports below report that
        yield
        return
    stand_in = types.ModuleType(name)
    stand_in.__path__ = list(spec.submodule_search_locations or ())
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]


with without_tensorflow():
    from tensorflow.core.example.example_pb2 import Example

__all__ = ["Example", "without_tensorflow"]
