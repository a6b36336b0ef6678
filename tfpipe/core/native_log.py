"""TensorFlow's native log lines, kept off a command's standard error.

TensorFlow's C++ code logs through absl, which writes to file descriptor 2. TF_CPP_MIN_LOG_LEVEL
hides only a part of these lines, and no public call hides the rest. So a small child process reads
what native code writes there, drops log lines, and passes on everything else: fatal messages,
crashes, whatever other libraries print. It outlives this process, so the reason for an abort is
shown too. Python's own `sys.stderr` stays on the terminal, past the filter.
"""

import os
import subprocess
import sys

# A line of absl ("I0000 00:00:1796028148.3 4606 port.cc:153] ..."), of TensorFlow's older logger
# ("2026-11-30 08:42:28.2: I tensorflow/...") or absl's note on itself.
_FILTER = r"""
import re, sys
severities, out = sys.argv[1].encode(), sys.stderr.buffer
absl = rb"[%s]\d{4} \d\d:\d\d:\d\d" % severities
older = rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [%s] " % severities
hidden = re.compile(absl + b"|" + older + b"|WARNING: All log messages before absl::InitializeLog")
for line in iter(sys.stdin.buffer.readline, b""):
    if not hidden.match(line):
        out.write(line)
        out.flush()
"""


def hide(severities: str) -> None:
    """Hide native log lines of some severities from now on, in this process and its children.

    Call it once, before TensorFlow is imported. It does nothing where somebody has replaced
    `sys.stderr`, as notebooks and tests do: file descriptor 2 is theirs. `severities` are letters
    of I (info), W (warning) and E (error); fatal lines are always shown.
    """
    if sys.stderr is not sys.__stderr__:
        return
    sys.stderr.flush()
    reader, writer = os.pipe()
    # In a session of its own, Ctrl-C does not end it before it has passed on the last line.
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _FILTER, severities],
        stdin=reader,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    sys.stderr = open(  # noqa: SIM115 (for the life of the process)
        os.dup(2), "w", encoding=sys.stderr.encoding, errors="backslashreplace", buffering=1
    )
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)
