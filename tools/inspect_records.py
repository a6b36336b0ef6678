"""The older name of `python -m tfpipe.inspect_records`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tfpipe.inspect_records", run_name="__main__", alter_sys=True)
