"""Native log lines are hidden, and nothing else is."""

import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

_START = "import os, sys; from tfpipe.core import native_log; native_log.hide('IWE')\n"


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", _START + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )


def test_only_log_lines_are_hidden():
    done = run(
        "os.write(2, b'I0000 00:00:1796028148.3 4606 port.cc:153] oneDNN\\n')\n"
        "os.write(2, b'E0000 00:00:1796028148.3 4606 cuda.cc:1] no GPU\\n')\n"
        "os.write(2, b'2026-11-30 08:42:28.281264: I tensorflow/core/util/port.cc:153] x\\n')\n"
        "os.write(2, b'F0000 00:00:1796028148.3 4606 check.cc:1] Check failed\\n')\n"
        "os.system('echo from a child >&2')\n"
        "os.write(2, b'without an end')\n"
        "print('from Python', file=sys.stderr)\n"
    )
    assert sorted(done.stderr.splitlines()) == [
        "F0000 00:00:1796028148.3 4606 check.cc:1] Check failed",
        "from Python",
        "from a child",
        "without an end",
    ]


def test_python_writes_to_the_terminal_itself():
    done = run("print(os.path.samestat(os.fstat(2), os.fstat(sys.stderr.fileno())))")
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_the_reason_for_an_abort_of_a_training_is_shown(records, tmp_path):
    """XLA ends the process at a flag that it does not know, when it compiles for the first time."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tfpipe.train", f"--records={records}"),
            *(f"--run_dir={tmp_path}/run", "--backbones=small_cnn", "--weights=none"),
            *("--image_size=32", "--stages=all:from=all", "--augment=flip_lr"),
        ],
        env={**os.environ, "XLA_FLAGS": "--xla_no_such_flag=1"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=170,
    )
    assert done.returncode in (-signal.SIGABRT, 1)
    assert "xla_no_such_flag" in done.stderr
