"""The part about a training: its stages in a table, its curves, and the options it had."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tfpipe.reporting import curves
from tfpipe.reporting.subject import Subject
from tfpipe.training import log
from tfpipe.training.config import TrainConfig
from tfpipe.training.log import Epoch


def histories(subject: Subject) -> dict[str, list[Epoch]]:
    """Returns the epochs of each of the subject's runs that has any; raises UserError as `log`."""
    found = {name: log.read(run.folder) for name, run in subject.runs.items()}
    return {name: epochs for name, epochs in found.items() if epochs}


def stages(found: dict[str, list[Epoch]]) -> list[dict[str, Any]]:
    """Returns what each stage of each run came to, a row of the table."""
    rows = []
    for name, epochs in found.items():
        by_stage: dict[str, list[Epoch]] = {}
        for epoch in epochs:
            by_stage.setdefault(epoch.stage, []).append(epoch)
        for stage, members in by_stage.items():
            rows.append({"run": name, "stage": stage} | _stage(members))
    return rows


def _stage(epochs: Sequence[Epoch]) -> dict[str, Any]:
    return {
        "epochs": len(epochs),
        "best": curves.best(epochs),
        "seconds": sum(epoch.seconds for epoch in epochs),
        "images_per_s": sum(epoch.images_per_s for epoch in epochs) / len(epochs),
        "input_wait": sum(epoch.input_wait for epoch in epochs) / len(epochs),
    }


def plots(found: dict[str, list[Epoch]]) -> dict[str, tuple[bytes, str]]:
    """Returns PNG files by name, each with its text for who does not see it; none of no epoch."""
    if not found:
        return {}
    return {name: (draw(found), alt) for name, (draw, alt) in curves.PLOTS.items()}


def options(subject: Subject) -> list[tuple[str, str]]:
    """Returns the options of the first run that are not the defaults."""
    config = subject.first.config
    return [
        (field.name, str(getattr(config, field.name)))
        for field in dataclasses.fields(TrainConfig)
        if getattr(config, field.name) != field.default
    ]
