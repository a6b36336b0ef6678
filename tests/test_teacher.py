"""`--teacher`: training towards the probabilities of another run."""

import csv

import numpy as np
import pytest

from tests.refusals import refused
from tests.training import CACHED, check_same_run, log_of
from tfpipe import train
from tfpipe.records import manifest as manifests
from tfpipe.records.label_encoding import LabelEncoding
from tfpipe.records.subset import Subset
from tfpipe.runs.teacher import Teacher


@pytest.fixture
def predictions(records, tmp_path):
    """Returns a function that writes a file with one answer for every training image."""
    manifest = manifests.load(str(records))

    def write(second=0.8, share=1.0, classes=manifest.classes, prefix=""):
        names = [each.filename for each in Subset(manifest, ("train",)).records()]
        names = [prefix + name for name in names[: int(len(names) * share)]]
        path = tmp_path / "teacher.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["name", "label", *(f"probability_{c}" for c in classes), "logit_x"])
            logit = np.log(second / (1 - second))
            rows.writerows([name, 0, 1 - second, second, logit] for name in names)
        return str(path)

    return write


def test_targets_mix_labels_and_probabilities():
    probabilities = np.float32([[0.9, 0.1], [0.2, 0.8]])
    teacher = Teacher(np.array([3, 7]), probabilities, 0.25, LabelEncoding(2))
    found = teacher.targets(np.array([7, 5, 3, 9]), np.array([0, 1, 1, 0]))
    assert found == pytest.approx(np.array([[0.8, 0.2], [0, 1], [0.225, 0.775], [1, 0]]))
    many = Teacher(np.array([3]), np.float32([[0.5, 0.25]]), 0.5, LabelEncoding(2, many=True))
    found = many.targets(np.array([3, 4]), np.float32([[1, 1], [0, 1]]))
    assert found == pytest.approx(np.array([[0.75, 0.625], [0, 1]]))


@pytest.mark.parametrize(
    "options",
    [CACHED, pytest.param({"augment": "flip_lr"}, marks=pytest.mark.slow)],
    ids=["features", "images"],
)
def test_a_run_learns_what_its_teacher_says(tiny_config, predictions, tmp_path, options):
    """A teacher that calls every image 0.8 of the second class, whatever its label is."""
    options = {**options, "head": "", "pooling": "avg", "tta": "", "learning_rate": 0.03}
    options |= {"epochs": 14, "patience": 14}  # by its labels, the first epoch is the best
    train.main(tiny_config(teacher=predictions(0.8), teacher_weight=1.0, **options))
    # The least cross-entropy from 0.8 and 0.2 is their entropy, where the answer is the same.
    entropy = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))
    losses = [float(row["loss"]) for row in log_of(tmp_path / "run")]
    assert losses[-1] == pytest.approx(entropy, abs=0.02)
    assert min(losses) > entropy - 1e-5


@pytest.mark.slow
def test_a_teacher_without_weight_changes_nothing(tiny_config, predictions, tmp_path):
    train.main(tiny_config(**CACHED, run_dir=str(tmp_path / "alone")))
    taught = {"teacher": predictions(), "teacher_weight": 0.0}
    train.main(tiny_config(**CACHED, **taught, run_dir=str(tmp_path / "taught")))
    check_same_run(tmp_path / "alone", tmp_path / "taught", within=0)


def test_images_that_the_teacher_does_not_know_are_counted(tiny_config, predictions, capsys):
    train.main(tiny_config(**CACHED, teacher=predictions(share=0.5)))
    assert "have their labels" in capsys.readouterr().err


def test_a_teacher_of_something_else_is_refused(tiny_config, predictions, tmp_path):
    with refused("classes day, night"):
        train.main(tiny_config(teacher=predictions(classes=("day", "night"))))
    with refused("none of the .* training images"):
        train.main(tiny_config(teacher=predictions(prefix="other/")))
    for place in (tmp_path / "no.csv", tmp_path):
        with refused("cannot be read .*: name a finished cross-validation"):
            train.main(tiny_config(teacher=str(place)))
