"""The process in which a version is checked: its graph meets wrong shapes, then a server loads it.

    python -m tfpipe.publish.candidate FOLDER FLAGS_OF_THE_SERVER...

One process, because TensorFlow's import takes longer than all that follows.
"""

import runpy
import sys

from tfpipe.core import onednn, terminal

SERVER = "serving.server"


def main(folder: str, flags: list[str]) -> None:
    """Serve a SavedModel, unless its graph takes a wrong shape; both as the server's command."""
    terminal.quiet_tensorflow(-1)
    onednn.use()
    from tfpipe.publish import wrong_shapes

    if fault := wrong_shapes.find(folder):
        terminal.error(fault)
        sys.exit(1)
    sys.argv = [SERVER, *flags]
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
