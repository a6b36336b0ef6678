"""No graph is made by translating Python, which took a tenth of a short training's time.

What depends on a tensor is written with TensorFlow's operations, so AutoGraph has nothing to do; it
rewrites the source of each function that it meets before it finds that out.
"""

import json
import subprocess
import sys

from conftest import TINY

# Each function that is translated becomes a module.
CODE = """
import json, sys
from tfpipe import evaluate, export, report, train
from tfpipe.training.config import TrainConfig

HEAD = {"stages": "head", "feature_views": 2, "pooling": "avg_max"}
records, folder, tiny = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for name, changes in {"head": HEAD, "all": {}}.items():
    run = f"{folder}/{name}"
    train.main(TrainConfig(records=records, run_dir=run, **tiny | changes))
evaluate.main(evaluate.Options(run_dir=run))
report.main(report.Options(run_dir=run))
found = lambda: sum("__autograph_generated" in name for name in sys.modules)
ours = found()
export.main(export.Options(run_dir=run, export_dir=f"{folder}/export"))
print("translated", ours, found())
"""


def test_functions_are_traced_as_they_are_written(records, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(records), str(tmp_path), json.dumps(TINY)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # The one is TensorFlow's own, around the signatures; so one would be seen.
    assert done.stdout.splitlines()[-1] == "translated 0 1"
