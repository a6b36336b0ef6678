"""What a trained classifier answers for labelled images, and all that is measured of it."""

import dataclasses
from typing import Any

import numpy as np

from tfpipe.core.errors import UserError, one_line
from tfpipe.evaluation import bootstrap, compare
from tfpipe.evaluation.measures import Answers
from tfpipe.evaluation.slices import Images, slices
from tfpipe.evaluation.summary import summary
from tfpipe.input import pipeline
from tfpipe.model import inference
from tfpipe.records import manifest as manifests
from tfpipe.records.manifest import ALL_SPLITS
from tfpipe.records.subset import Subset
from tfpipe.runs import combine, finish, trained
from tfpipe.runs.trained import Trained

OUT_OF_FOLD = "out-of-fold"

_SIDE = 64  # of images that only their brightness is read from


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Answers for images, at least one.

    Attributes:
        run: that gave them.
        what: it was measured on, in words.
        found: "name" str [n], escaped to one line, "label" int64 [n], "logits" float32 [n, 1 or C]
            and "probabilities" float32 [n, C].
        before: probabilities [n, C] before steps of the calibration, by the name of their log loss.
        images: what is known of them.
        reason: why that is nothing.
        described: keys of `metrics.json` that tell of the images and the calibration.
    """

    run: Trained
    what: str
    found: dict[str, np.ndarray]
    before: dict[str, np.ndarray]
    images: Images | None
    reason: str
    described: dict[str, Any]

    @property
    def answers(self) -> Answers:
        """What is measured."""
        return Answers(self.found["probabilities"], self.found["label"])

    def measured(self, rounds: int = bootstrap.ROUNDS) -> dict[str, Any]:
        """Returns what `metrics.json` has: `described`, `summary`, and "slices" of `slices`."""
        found = summary(
            self.found["probabilities"],
            self.found["label"],
            self.run.classes,
            rounds=rounds,
            before=self.before,
        )
        parts = None
        if self.images is None:
            found["reasons"]["slices"] = self.reason
        else:
            parts = slices(self.answers, self.images, rounds=rounds)
        return self.described | found | {"slices": parts}

    def against(self, other: "Evaluation", rounds: int = bootstrap.ROUNDS) -> dict[str, Any]:
        """Returns how it compares with another run's answers, as `compare.compare`.

        Raises:
            UserError: they are for other images or labels.
        """
        first, second = self.run.folder, other.run.folder
        order = compare.order(first, self.found["name"], second, other.found["name"])
        differ = other.found["label"][order] != self.found["label"]
        if differ.any():
            raise UserError(
                f"{first} and {second} have other labels, as of {self.found['name'][differ][0]}:"
                " give --records for both"
            )
        return compare.compare(self.answers, other.answers[order], rounds=rounds)


def part_of(run: Trained, records: str = "", split: str = "") -> Subset:
    """Returns the records to measure a run on.

    Args:
        run: what is measured.
        records: their folder; empty for the run's own.
        split: of them, or "all"; empty for what the run was validated on.

    Raises:
        UserError: the records are missing, damaged, of other classes, or none.
    """
    manifest = manifests.load(records or run.records)
    manifest.check()
    trained.check_classes(run, manifest)
    part = Subset(manifest, (split,)) if split else run.validation(manifest)
    if not part.images:
        raise UserError(
            f"{manifest.folder} has no images of {part.name}: give another --split, one of"
            f" {', '.join(manifest.splits)} and {ALL_SPLITS}"
        )
    return part


def on_part(run: Trained, part: Subset, tta: str = "") -> Evaluation:
    """Runs a classifier on records.

    Args:
        run: what is measured.
        part: of records.
        tta: test-time views instead of the run's, "none" for none; empty for the run's.

    Raises:
        UserError: the run has no weights, they are damaged, or a view is unknown.
    """
    predictor = run.restore(tta=tta)
    batches = pipeline.eval_batches(
        part,
        image_size=predictor.image_size,
        batch_size=inference.BATCH_SIZE,
        described=True,
    )
    found = inference.predict(predictor, batches, part.images, f"evaluating {part.name}")
    found["name"] = _text(found["name"])
    before = finish.steps(predictor.calibration, found["logits"], predictor.output)
    del before["log_loss"]
    return Evaluation(
        run,
        f"{part.name} of {part.manifest.folder}",
        found,
        before,
        Images(*(found[key] for key in Images._fields)),
        "",
        {
            "records": str(part.manifest.folder),
            "records_fingerprint": part.manifest.fingerprint,
            "split": part.name,
            "calibration": dataclasses.asdict(predictor.calibration),
        },
    )


def out_of_fold(run: Trained) -> Evaluation:
    """Returns what a cross-validation answered for each image by a run that has not seen it.

    Raises:
        UserError: its predictions are missing or damaged.
    """
    found = finish.read_predictions(run.predictions_file)
    images, reason = _images(run, found["name"])
    return Evaluation(
        run,
        f"out-of-fold predictions of {run.folder}",
        found,
        {"log_loss_raw": np.exp(combine.log_probabilities(found["logits"]))},
        images,
        reason,
        {"records": run.records, "split": OUT_OF_FOLD},
    )


def _images(run: Trained, names: np.ndarray) -> tuple[Images | None, str]:
    """Looks images up in the run's records, by their names; or returns why that cannot be."""
    try:
        manifest = manifests.load(run.records)
        manifest.check()
    except UserError as error:
        return None, str(error)
    batches = pipeline.eval_batches(
        Subset(manifest, (ALL_SPLITS,)),
        image_size=_SIDE,
        batch_size=inference.BATCH_SIZE,
        described=True,
    )
    columns = inference.gather(batches, manifest.images(), "looking at the images")
    there = Images(_text(columns["name"]), *(columns[key] for key in Images._fields[1:]))
    rows = {name: row for row, name in enumerate(there.name)}
    if len(rows) < len(there.name):
        return None, f"{manifest.folder} has several images with one name"
    missing = [name for name in names if name not in rows]
    if missing:
        return None, f"{manifest.folder} has no image {missing[0]}"
    chosen = np.array([rows[name] for name in names])
    return Images(*(column[chosen] for column in there)), ""


def _text(names: np.ndarray) -> np.ndarray:
    """Returns names, bytes [n], as `finish.write_predictions` writes them, str [n]."""
    return np.array([one_line(name.decode("utf-8", "surrogateescape")) for name in names])
