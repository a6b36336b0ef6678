"""tfpipe: from a pile of labelled images to a served classifier.

    import tfpipe

    data = tfpipe.build("train.zip", "records/pets")
    run = tfpipe.fit(data, "runs/pets", backbones="mobilenet", epochs=10)
    for row in run.predict(["a.jpg"]):
        print(row.label, row.probability)

Names are imported when they are used, so `import tfpipe` takes milliseconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfpipe.api.evaluation import EvaluatedRun
    from tfpipe.api.prediction import PredictedImage
    from tfpipe.api.records import Records, SplitInfo, build, load_records
    from tfpipe.api.run import Run, fit, load_run
    from tfpipe.augment.chain import Augment
    from tfpipe.core.errors import UserError

__version__ = "0.1.0"

_HOMES = {
    "Augment": "tfpipe.augment",
    "EvaluatedRun": "tfpipe.api.evaluation",
    "PredictedImage": "tfpipe.api.prediction",
    "Records": "tfpipe.api.records",
    "Run": "tfpipe.api.run",
    "SplitInfo": "tfpipe.api.records",
    "UserError": "tfpipe.core.errors",
    "build": "tfpipe.api.records",
    "fit": "tfpipe.api.run",
    "load_records": "tfpipe.api.records",
    "load_run": "tfpipe.api.run",
}

__all__ = [
    "Augment",
    "EvaluatedRun",
    "PredictedImage",
    "Records",
    "Run",
    "SplitInfo",
    "UserError",
    "build",
    "fit",
    "load_records",
    "load_run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
