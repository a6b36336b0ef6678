"""Run a command in this process as its command line would, without the imports of a new one."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
from unittest import mock

from tfpipe.core import cli


def run(main, options, *flags, cwd=None):
    """Run a command; return its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    before = pathlib.Path.cwd()
    os.chdir(cwd or before)
    argv = [main.__module__, *map(str, flags)]
    try:
        with (
            mock.patch.object(sys, "argv", argv),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            cli.run(main, options, tuned=False)
    except SystemExit as ended:
        return subprocess.CompletedProcess(argv, ended.code or 0, out.getvalue(), err.getvalue())
    finally:
        os.chdir(before)


def assert_one_error(done, *words):
    """Check that a command ended with one line that has these words; return the line."""
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line, done.stderr
    return line
