"""The model card: what a version is, its data and training, and its quality.

Source: Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv:1810.03993).
"""

import pathlib
from typing import Any

import tfpipe
from tfpipe.core import options, storage
from tfpipe.core.errors import UserError
from tfpipe.evaluation import label_sets
from tfpipe.evaluation.metrics import names
from tfpipe.evaluation.result_tables import interval, number
from tfpipe.evaluation.summary import summary
from tfpipe.images import upload
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.records import manifest as manifests
from tfpipe.runs import loaded_run, predictions_file
from tfpipe.runs.loaded_run import LoadedRun
from tfpipe.training.run_folder import RunFolder

JSON, TEXT = "model_card.json", "model_card.md"
SCHEMA_VERSION = 1

_ONE_CLASS = "It names one of its classes for every image, even for one that shows none of them."
LIMITS = (
    "Its probabilities hold for images like the training images. For another camera, image size or"
    " share of the classes they may be worse without any sign.",
    "The measures come from the images that chose the calibration and the best epoch; on other"
    " images they will be slightly worse.",
    f"An image has at most {upload.MAX_PIXELS:,} pixels.",
)


def measures(run: LoadedRun) -> dict[str, Any]:
    """Return the summary of a run's predictions of its validation images.

    Raises:
        UserError: there are no predictions, or they are damaged or of other weights.
    """
    if run.predictions_file.is_file() and not loaded_run.is_calibrated(run):
        raise UserError(
            f"{run.predictions_file} or its calibration is missing or of other weights than the run"
            " now has: run tfpipe.train there to its end"
        )
    found = predictions_file.read(run.predictions_file)
    return summary(found["probabilities"], found["label"], run.classes, thresholds=run.thresholds)


def describe(
    run: LoadedRun,
    predictor: Predictor | EnsemblePredictor,
    measured: dict[str, Any],
    *,
    name: str,
    version: int,
    signatures: list[str],
    optimize: str,
    license: str,
) -> dict[str, Any]:
    """Return the card of an exported version.

    Args:
        run: the trained run or ensemble.
        predictor: its predictor.
        measured: from `measures`.
        name: of the model.
        version: its number.
        signatures: their names.
        optimize: the flag of tfpipe.export.
        license: of the model; empty if unknown.
    """
    classes = list(run.classes)
    limits = [f"Its measures: {each}." for each in measured["warnings"]] + list(LIMITS)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "tfpipe_version": tfpipe.__version__,
        "license": license or None,
        "classes": classes,
        "decision": _decision(run),
        "input": {"side_in_pixels": predictor.image_size, "formats": ["JPEG", "PNG", "GIF", "BMP"]},
        "data": _data(run),
        "training": _training(run),
        "test_time_views": run.tta or "none",
        "calibration": {
            "text": str(predictor.calibration),
            **predictor.calibration.to_json(),
        },
        "reject_rate": predictor.familiarity and predictor.familiarity.reject_rate,
        "measures": measured,
        "parameters": sum(variable.shape.num_elements() for variable in predictor.variables),
        "signatures": signatures,
        "optimize": optimize,
        "limits": [*limits, *_one_class(run, predictor)],
    }


def _one_class(run: LoadedRun, predictor: Predictor | EnsemblePredictor) -> list[str]:
    """Say what an image without any of the classes gets."""
    if run.thresholds is not None:
        return []
    if predictor.familiarity:
        return [f"{_ONE_CLASS} Its score `unfamiliar` tells most such images, but not all."]
    return [_ONE_CLASS]


def _decision(run: LoadedRun) -> dict[str, Any]:
    """Return how probabilities become labels."""
    if run.thresholds is not None:
        return {
            "label": "every class whose probability reaches its threshold",
            "threshold": None,
            "positive_class": None,
            "thresholds": dict(zip(run.classes, run.thresholds, strict=True)),
        }
    two = len(run.classes) == 2
    return {
        "label": "the class of the highest probability",
        "threshold": 0.5 if two else None,
        "positive_class": run.classes[1] if two else None,
    }


def _data(run: LoadedRun) -> dict[str, Any]:
    """Return the description of the records, which may be gone."""
    found = {
        "records": run.records,
        "class_shares": dict(zip(run.classes, run.class_shares, strict=True)),
        "depth16": run.depth16,
    }
    try:
        manifest = manifests.load(run.records)
    except UserError:
        return found | {"fingerprint": None, "images": None}
    return found | {"fingerprint": manifest.fingerprint, "images": manifest.splits}


def _training(run: LoadedRun) -> dict[str, Any]:
    if not isinstance(run, RunFolder):
        return {
            "combined_by": run.combination.method,
            "members": [_training(member) | member.identity() for member in run.members],
        }
    return {
        "backbones": [branch["name"] for branch in run.resolved.branches],
        "precision": run.resolved.precision,
        "records_fingerprint": run.resolved.records_fingerprint,
        "options": options.to_json(run.config),
        **run.identity(),
    }


def write(folder: pathlib.Path, card: dict[str, Any]) -> None:
    """Write the card into a folder, as JSON and as Markdown."""
    storage.write_json(folder / JSON, card)
    (folder / TEXT).write_text(as_text(card), encoding="utf-8")


def _figure(measured: dict[str, Any], *path: str) -> str:
    """Return a measure or an interval as text, or the reason why it is undefined."""
    value = measured
    for key in path:
        value = value[key]
    if value is None:
        return measured["reasons"][".".join(path)]
    return number(value) if isinstance(value, float) else interval(value)


def _rejects(rate: float | None) -> list[str]:
    if rate is None:
        return []
    return [
        "- Images of other kinds: `unfamiliar` is above 1 for them, and for a share of"
        f" {rate:g} of images like the validation images."
    ]


def as_text(card: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    measured, classes = card["measures"], card["classes"]
    decision, many = card["decision"]["label"], "thresholds" in card["decision"]
    if many:
        thresholds = card["decision"]["thresholds"].items()
        decision += f": {', '.join(f'`{name}` {value:.3g}' for name, value in thresholds)}"
    if card["decision"]["threshold"] is not None:
        decision += (
            f"; for two, `{classes[1]}` from a probability of {card['decision']['threshold']:g}."
            " The server has no threshold: apply another one to `probability`, or in the client"
            " (`--threshold`)"
        )
    registered = label_sets.registry(measured["labels"])
    figures = [
        (registered[key].title, (key,), ("intervals", key))
        for key in names(registry=registered)
        if key in measured
    ]
    figures += [(f"{name} found", ("recall", name), ("recall_intervals", name)) for name in classes]
    rows = [("images", f"{measured['n']:,}", "")]
    rows += [
        (title, _figure(measured, *value), _figure(measured, *bounds))
        for title, value, bounds in figures
    ]
    listed = f"{', '.join(classes[:-1])} and {classes[-1]}"
    what = f"Tells {listed} apart in images"
    if many:
        what = f"Tells which of {listed} an image shows, several or none, in images"
    lines = [
        f"# {card['name']}, version {card['version']}",
        "",
        f"{what} of {', '.join(card['input']['formats'])}, which it resizes to"
        f" {card['input']['side_in_pixels']} x {card['input']['side_in_pixels']} pixels.",
        "",
        "| measure | value | 95 % interval |",
        "| --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"- Label: {decision}.",
        f"- Calibration: {card['calibration']['text']}.",
        f"- Test-time views: {card['test_time_views']}.",
        *_rejects(card["reject_rate"]),
        f"- Data: {card['data']['records']}, fingerprint {card['data']['fingerprint']}.",
        f"- Parameters: {card['parameters']:,}.",
        f"- Signatures: {', '.join(card['signatures'])}.",
        f"- License: {card['license'] or 'not stated'}.",
        f"- Made by tfpipe {card['tfpipe_version']}; {JSON} has the options of the training.",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in card["limits"]),
        "",
    ]
    return "\n".join(lines)
