"""Serve SavedModels over gRPC and REST with TensorFlow Serving's protocol.

    tfpipe serve --model_name=demo --model_base_path=export/demo --port=8500

The flags have the names of tensorflow_model_server's. The highest version under the base path is
served. A new version is loaded beside the old one and then replaces it without a pause. SIGTERM and
Ctrl-C let requests under way finish.
"""

import importlib.metadata
import os

from serving.server_options import ServerOptions, check, decodes_within
from tfpipe.core import cli, terminal
from tfpipe.core.memory import memory_limit
from tfpipe.core.signals import Signals


def main(options: ServerOptions) -> None:
    """Serve until a signal comes."""
    if warning := check(options):
        terminal.warn(warning)
    # Without it TensorFlow takes all the memory of every GPU.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # Imported here: --help and wrong flags answer at once, and gRPC and TensorFlow read their log
    # levels at import.
    import tensorflow as tf

    from serving.embedded_server import DRAIN_S, EmbeddedServer

    if options.version:
        print(f"tfpipe {importlib.metadata.version('tfpipe')}, TensorFlow {tf.__version__}")
        return
    both = options.tensorflow_session_parallelism
    if inter := both or options.tensorflow_inter_op_parallelism or decodes_within(memory_limit()):
        tf.config.threading.set_inter_op_parallelism_threads(inter)
    if intra := both or options.tensorflow_intra_op_parallelism:
        tf.config.threading.set_intra_op_parallelism_threads(intra)
    server = EmbeddedServer(options)
    signals = Signals()
    server.start()
    if server.rest_address:
        terminal.say(f"REST at {server.rest_scheme}://{server.rest_address}/v1/models")
    for name, versions in server.models.served.items():
        terminal.say(f"serving {name} version {', '.join(map(str, versions))} at {server.address}")
    signals.wait()
    server.stop(drain_s=DRAIN_S)


if __name__ == "__main__":
    cli.run(main, ServerOptions)
