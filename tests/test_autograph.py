"""AutoGraph translates none of our functions: it would take a tenth of a short training.

Our functions use TensorFlow's operations, so AutoGraph has nothing to do. But it rewrites the
source of each function before it finds out.
"""

import json
import subprocess
import sys

import pytest
from conftest import TINY

# Each function that is translated becomes a module.
CODE = """
import json, sys
from tfpipe import evaluate, export, report, train
from tfpipe.training.train_config import TrainConfig

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


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_functions_are_traced_as_they_are_written(records, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(records), str(tmp_path), json.dumps(TINY)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # TensorFlow's own for the signatures: proof that the count works.
    assert done.stdout.splitlines()[-1] == "translated 0 1"
