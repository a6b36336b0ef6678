"""The report about trained classifiers, of finished and of broken runs."""

import csv
import dataclasses
import importlib.util
import io
import json
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
from conftest import TINY, draw
from PIL import Image
from test_configs import CONFIGS, read
from test_dataset_report import Page

from tfpipe import build_records, ensemble, report, train
from tfpipe.core.errors import UserError
from tfpipe.images import duplicates
from tfpipe.images.duplicates import Member
from tfpipe.input.pipeline import eval_batches
from tfpipe.page import heat_overlay, thumbnail
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.reporting import (
    comparison,
    dataset_chapter,
    image_groups,
    layer_plots,
    model_structure,
    named_predictions,
    neighbours,
    published_recipes,
    record_images,
    result_plots,
    run_report,
    target,
    training_plots,
)
from tfpipe.reporting.named_predictions import NamedPredictions
from tfpipe.runs import loaded_run, predictions_file
from tfpipe.training import log, resume
from tfpipe.training.csv_logger import CsvLogger
from tfpipe.training.train_config import TrainConfig

HOSTILE = ("<script>alert(1)<b>", "a & 'b' \"c\"", "$\\frac{x$", "plain")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def write(*folders, **changes):
    """Run the command on folders, by default without images, and return the page's text."""
    options = {"run_dir": ",".join(map(str, folders)), "pictures": 0, "neighbours": 0}
    report.main(report.Options(**options | changes))
    default = "report.html" if len(folders) == 1 else "comparison.html"
    text = pathlib.Path(changes.get("out") or folders[0] / default).read_text(encoding="utf-8")
    Page(text).assert_self_contained(text)
    return text


def build(images, records, **changes):
    options = build_records.Options(
        source=(str(images),), out=str(records), workers=1, report=False, **changes
    )
    build_records.main(options)


@pytest.fixture(scope="module")
def run(run_dir, tmp_path_factory):
    """A copy of a finished run, which these tests may write to."""
    return shutil.copytree(run_dir, tmp_path_factory.mktemp("run") / "first")


@pytest.fixture(scope="module")
def loaded(run):
    """The run as a target, with the manifest of its records."""
    (found,) = target.load([str(run)])
    return found, manifests.load(found.first.records)


ALL_PARTS = {"pictures": 2, "neighbours": 20, "show": "feature_maps,filters"}


@pytest.fixture(scope="module")
def text(run):
    return write(run, **ALL_PARTS)


@pytest.fixture(scope="module")
def other(second_run):
    """A run of two stages on the same records."""
    return second_run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run on four classes with names that nobody should use."""
    folder = tmp_path_factory.mktemp("hostile")
    for index, name in enumerate(HOSTILE):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(8):
            picture = draw("cat" if index % 2 else "dog", 100 * index + number)
            picture.save(folder / "images" / name / f"<i>{number}&\n.jpg")
    build(folder / "images", folder / "records", splits="train:0.5,val:0.5")
    config = TINY | {"epochs": 1, "tta": "", "augment": ""}
    train.main(TrainConfig(records=str(folder / "records"), run_dir=str(folder / "run"), **config))
    return folder / "run"


def test_a_run_has_every_part(text, run):
    page = Page(text)
    assert {"result", "pictures", "training", "model", "data"} <= page.ids
    assert {"data-classes", "data-images", "data-files"} <= page.ids
    saved = predictions_file.read(run / "predictions.csv")
    accuracy = (saved["probabilities"].argmax(1) == saved["label"]).mean()
    assert [row[1] for row in page.rows if row and row[0] == "accuracy"] == [f"{accuracy:.4f}"]
    epochs = log.read(run)
    best = min(epochs, key=lambda epoch: epoch.val_loss)
    (row,) = [row for row in page.rows if row and row[0] == "all" and len(row) == 9]
    assert row[1:5] == ["3", str(best.epoch), f"{best.loss:.4f}", f"{best.val_loss:.4f}"]
    assert all(title in page.words for title in image_groups.GROUPS)
    assert len(text) < 5_000_000


def test_every_plot_is_a_png_file_too(text, run):
    names = {path.stem for path in (run / "plots").iterdir()}
    assert names >= {*result_plots.PLOTS, *training_plots.PLOTS, "structure"}
    assert names >= {"filters", "feature_maps", "data-classes", "data-size", "data-aspect"}
    for path in (run / "plots").iterdir():
        with Image.open(path) as drawn:
            assert drawn.format == "PNG"
            assert drawn.convert("L").getextrema()[0] < 100, path  # not blank


@pytest.mark.slow  # builds the page again
def test_the_same_run_gives_the_same_page_and_keeps_its_files(text, run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert write(run, out=str(tmp_path / "again.html"), **ALL_PARTS) == text
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_runs_are_compared_and_hostile_names_stay_text(run, other, hostile):
    text = write(run, other, hostile, pictures=1)
    page = Page(text)
    assert {"comparison", "r1-result", "r2-result", "r1-training", "r3-model"} <= page.ids
    assert len(re.findall(r'id="data"', text)) == 1
    parts = [predictions_file.read(folder / "predictions.csv") for folder in (run, other)]
    right = [part["probabilities"].argmax(1) == part["label"] for part in parts]
    assert f"Both are right on {int((right[0] & right[1]).sum())} images" in page.words
    assert "No comparison image by image" in page.words  # with the run on other images
    assert " in log loss" in page.words
    assert {"comparison-loss", "comparison-accuracy", "comparison-1"} <= {
        path.stem for path in (run / "plots").iterdir()
    }
    assert [row[0] for row in page.rows if row and row[0] in ("a", "b")] == ["a", "b"]
    words = "".join(page.texts)
    assert all(name in words for name in HOSTILE)
    assert "&\\n.jpg" in words
    assert not re.search(r"<i>\d", text)
    assert any(sorted(row[1:]) == sorted(HOSTILE) for row in page.rows)  # the confusion matrix


class TestBroken:
    @pytest.fixture
    def copy(self, run_dir, tmp_path):
        return shutil.copytree(run_dir, tmp_path / "run")

    @pytest.fixture
    def unfinished(self, copy):
        """A run whose configuration lists no files yet."""
        path = copy / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"parts": []}))
        return copy

    def test_missing_predictions_are_computed(self, unfinished):
        copy = unfinished
        saved = predictions_file.read(copy / "predictions.csv")
        for name in ("predictions.csv", "calibration.json"):
            (copy / name).unlink()
        (found,) = target.load([str(copy)])
        computed = named_predictions.load(found, manifests.load(found.first.records))
        assert "uncalibrated" in computed.note
        assert not (copy / "predictions.csv").exists()
        assert computed.names.tolist() == saved["name"].tolist()
        sigmoid = 1 / (1 + np.exp(-saved["logits"][:, 0].astype(np.float64)))
        np.testing.assert_allclose(computed.probabilities[:, 1], sigmoid, atol=1e-5)

    def test_many_missing_predictions_are_left_to_training(self, copy, loaded, monkeypatch):
        (copy / "predictions.csv").unlink()
        monkeypatch.setattr(named_predictions, "MAX_COMPUTED", 3)
        (found,) = target.load([str(copy)])
        with pytest.raises(UserError, match=r"run tfpipe\.train"):
            named_predictions.load(found, loaded[1])

    def test_no_epoch_has_ended_and_the_records_are_missing(self, unfinished, capsys):
        copy = unfinished
        for name in ("best.weights.h5", "predictions.csv", "calibration.json", "log.csv"):
            (copy / name).unlink()
        page = Page(write(copy, records=str(copy / "nowhere")))
        assert {"training", "model"} <= page.ids
        assert not {"result", "pictures", "data"} & page.ids
        assert "No pictures" in page.words
        shown = capsys.readouterr().err
        assert "no trained weights yet: run tfpipe.train" in shown
        assert "nowhere" in shown

    @pytest.mark.slow
    def test_a_class_without_images_is_said(self, copy, capsys):
        path = copy / "predictions.csv"
        header, *rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join([header, *(row for row in rows if row.startswith("cat"))]))
        page = Page(write(copy))
        assert "no image of dog among these 8" in page.words
        assert "no image of dog" in capsys.readouterr().err
        assert any(row[:3] == ["dog", "0", "no images"] for row in page.rows)

    def test_the_records_are_others(self, copy, hostile):
        page = Page(write(copy, records=loaded_run.load(hostile).records, pictures=1))
        assert "No pictures" in page.words
        assert "result" in page.ids

    def test_a_damaged_log_is_an_error(self, copy):
        (copy / "log.csv").write_text("epoch,stage\n1,x\n")
        with pytest.raises(UserError, match=r"log\.csv is damaged"):
            write(copy)
        assert not (copy / "report.html").exists()


@pytest.mark.slow  # trains two runs
def test_a_cross_validation_finished_and_not(image_folder, tmp_path):
    build(image_folder, tmp_path / "records", folds=2)
    records, folder = str(tmp_path / "records"), tmp_path / "cv"
    config = TINY | {"epochs": 1, "tta": ""}
    train.main(TrainConfig(records=records, run_dir=str(folder), folds=2, **config))
    page = Page(write(folder, pictures=1))
    assert {"result", "pictures", "training", "model", "data"} <= page.ids
    assert [row[0] for row in page.rows if row and row[0].startswith("fold-")] == [
        "fold-0",
        "fold-1",
    ]
    assert "in each of 2 runs" in page.words
    (folder / "folds.json").unlink()
    shutil.rmtree(folder / "fold-1")
    page = Page(write(folder))
    assert {"training", "model", "data"} <= page.ids
    assert "result" not in page.ids
    assert "unfinished cross-validation" in page.words


@pytest.mark.slow  # evaluates an ensemble twice
def test_an_ensemble(run, other, tmp_path):
    options = ensemble.Options(runs=f"{run},{other}", out=str(tmp_path / "ens"))
    ensemble.main(options)
    page = Page(write(tmp_path / "ens", pictures=1))
    assert {"result", "pictures", "training", "model", "data"} <= page.ids
    assert {"first", "second"} <= {row[0] for row in page.rows if row and len(row) == 10}
    ensemble.main(dataclasses.replace(options, overwrite=True))  # the report belongs to it
    assert not (tmp_path / "ens" / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"show": "weights"}, "--show=weights"),
        ({"pictures": -1}, "--pictures=-1"),
        ({"neighbours": 10**9}, "--neighbours=1000000000"),
        ({"out": "nowhere/at/all.html"}, "nowhere/at/all.html"),
        ({"run_dir": "nowhere"}, "nowhere"),
        ({"run_dir": "twice,./twice"}, "each folder once"),
    ],
)
def test_wrong_options_are_explained(run, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        report.main(report.Options(**{"run_dir": str(run)} | changes))
    assert report._SHOWN == layer_plots.PLOTS


def test_a_missing_package_is_an_error(run, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jinja2" else real(name)
    )
    with pytest.raises(UserError, match=r"pip install 'tfpipe\[report\]'"):
        write(run)


def predictions(probabilities, labels):
    probabilities = np.asarray(probabilities, np.float32)
    names = np.array([f"{index}.jpg" for index in range(len(labels))])
    return NamedPredictions(names, np.array(labels), probabilities, probabilities)


def test_groups_contain_the_images_that_their_titles_say():
    rows = [[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.05, 0.95], [0.7, 0.3]]
    found = predictions(rows, [1, 0, 0, 1, 0])
    assert image_groups.wrong(found, 9) == [0, 1]
    assert image_groups.wrong(found, 1) == [0]
    assert image_groups.uncertain(found, 2) == [2, 4]
    assert image_groups.certain(found, 3) == [3, 0, 1]


def test_a_heat_map_colours_hot_places():
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    blended = heat_overlay.blend(Image.new("RGB", (80, 40), (120, 120, 120)), heat)
    assert blended.size == (80, 40)
    cold, hot = (np.asarray(blended, int)[20, column] for column in (5, 75))
    assert hot[0] - hot[2] > 40
    assert hot.mean() - cold.mean() > 50


def test_neighbours_have_the_smallest_angles(loaded):
    found, manifest = loaded
    val = found.trained.validation(manifest)
    train_part = record_images.training_part(found.trained, manifest)
    predictor = found.trained.restore()
    asked = record_images.read([val], {0, 3})
    near = neighbours.find(predictor, [asked[0], asked[3]], train_part, found.classes, 99)

    def features(part):
        batches = eval_batches(part, image_size=predictor.image_size, batch_size=8)
        rows = [
            (predictor.features(b["image"]).numpy(), b["sample_weight"].numpy()) for b in batches
        ]
        values = np.concatenate([row[weight > 0] for row, weight in rows]).astype(np.float64)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    searched, own = features(train_part), features(val)
    for index, row in zip((0, 3), near, strict=True):
        expected = np.sort(1 - searched @ own[index])[: neighbours.COUNT]
        np.testing.assert_allclose([each.distance for each in row], expected, atol=1e-5)
    (fields,) = record_images.read([train_part], {2}).values()
    (row,) = neighbours.find(predictor, [fields], train_part, found.classes, 99)
    assert len(row) == neighbours.COUNT
    assert fields.filename not in {each.name for each in row}


def test_records_are_those_of_the_predictions(loaded):
    found, manifest = loaded
    saved = named_predictions.load(found, manifest)
    parts = record_images.validation_parts(found.trained, manifest)
    records = record_images.read(parts, range(len(saved)))
    assert [records[index].filename for index in range(len(saved))] == saved.names.tolist()
    with pytest.raises(UserError, match="fewer images"):
        record_images.read(parts, {len(saved)})
    with pytest.raises(UserError, match="not the records"):
        record_images.check(records[0], saved.names[1], saved.labels[1], "records")


def test_batches_equal_those_of_evaluation(records):
    part = Subset(manifests.load(records), ("val",))
    batches = eval_batches(part, image_size=24, batch_size=8)
    expected = np.concatenate([b["image"].numpy()[b["sample_weight"].numpy() > 0] for b in batches])
    found = [pixels.numpy()[:count] for pixels, count in record_images.batches(part.records(), 24)]
    np.testing.assert_array_equal(np.concatenate(found), expected)
    first = next(part.records())
    np.testing.assert_array_equal(record_images.decoded(first, 24), expected[0])
    broken = first._replace(encoded=b"\xff\xd8 no more", filename="a\n.jpg")
    with pytest.raises(UserError, match=r"a\\n\.jpg cannot be decoded"):
        thumbnail.of_record(broken, 20)
    with pytest.raises(UserError, match="cannot be decoded"):
        list(record_images.batches([first, broken], 20))


def test_the_structure_counts_what_the_stages_train(other):
    (found,) = target.load([str(other)])
    structure = model_structure.build(found.first)
    (blocks,) = structure.backbones.values()
    everything = [*blocks, *structure.head]
    count = found.first.restore_classifier().model.count_params()
    assert sum(block.parameters for block in everything) == count == structure.parameters
    assert sum(block.trained for block in everything) == structure.stages["b"]
    head = sum(block.trained for block in everything if block.stage == 0)
    assert head == structure.stages["a"] == sum(block.trained for block in structure.head)


def test_the_structure_shows_a_frozen_backbone(tiny_config):
    config = tiny_config(backbones="vgg16", stages="head", pooling="avg", head="")
    started = resume.start(config, manifests.load(config.records), "float32", False)
    structure = model_structure.build(started)
    ((name, blocks),) = structure.backbones.items()
    assert name == "vgg16, 32 x 32"
    assert {block.stage for block in blocks} == {model_structure.FROZEN}
    assert sum(block.parameters for block in blocks) == 14_714_688  # as published, without the top
    assert structure.stages == {"head": 513}


def test_many_blocks_are_merged():
    blocks = [
        model_structure.Block(f"b{n}", "1", n + 1, 0, model_structure.FROZEN) for n in range(90)
    ]
    merged = model_structure.merged(blocks)
    assert len(merged) == model_structure.MAX_ROWS
    assert sum(block.parameters for block in merged) == sum(range(1, 91))
    assert merged[0].name.startswith("b0")
    assert merged[-1].name.endswith("b89")


def test_targets_are_compared_on_the_same_images_in_any_order():
    rng = np.random.default_rng(0)
    labels, order = rng.integers(0, 2, 50), rng.permutation(50)
    one, two = (
        predictions(np.stack([1 - p, p], 1), labels) for p in rng.uniform(0.01, 0.99, (2, 50))
    )
    columns = (two.names, two.labels, two.probabilities, two.raw)
    shuffled = NamedPredictions(*(column[order] for column in columns))

    def chapter(name, found):
        place = types.SimpleNamespace(name=name, classes=("x", "y"))
        return types.SimpleNamespace(target=place, predictions=found)

    pair = comparison.pair(chapter("a", one), chapter("b", shuffled))
    a, b = (found.guesses == labels for found in (one, two))
    assert pair.agreement == ((a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum())
    assert len(pair.disputed) == pair.agreement[1] + pair.agreement[2]
    assert all(one.names[i] == shuffled.names[j] for i, j in pair.disputed)
    assert "log loss" in pair.sentences[0]
    assert "accuracy" in pair.sentences[1]


@pytest.mark.parametrize(
    ("classes", "there"),
    [
        (2, 2),
        pytest.param(40, 40, marks=pytest.mark.slow),
        (2, 1),
        pytest.param(3, 2, marks=pytest.mark.slow),
    ],
)
def test_results_of_any_number_of_classes_can_be_drawn(classes, there):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, there, 60)
    scores = np.exp(rng.normal(0, 1, (60, classes)) + 3 * np.eye(classes)[labels])
    found = predictions(scores / scores.sum(1, keepdims=True), labels)
    for png, _ in result_plots.draw(found, [f"class <{n}>" for n in range(classes)]).values():
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.width == 896
            assert len(picture.convert("RGB").getcolors(2**24)) > 20


@pytest.mark.parametrize(("epochs", "runs"), [(1, 1), (30, 2), (2, 9)])
def test_any_number_of_epochs_and_runs_can_be_drawn(epochs, runs):
    history = [
        log.Epoch(n + 1, "head" if n < 2 else "all", 1 / (n + 1), 0.9, 0, 0.5, 0, 10, 0, 1)
        for n in range(epochs)
    ]
    drawn = training_plots.draw({f"run {n}": history for n in range(runs)})
    assert set(drawn) == set(training_plots.PLOTS)
    assert all(png.startswith(b"\x89PNG") for png, _ in drawn.values())


def test_files_are_read_as_they_were_written(tmp_path):
    epochs = [
        log.Epoch(n, "a,b", 0.1 * n, 0.5, 0.3, 0.4, 1e-3, 12.5, 0.25, 3.75, 0.3) for n in (1, 2)
    ]
    written = CsvLogger(types.SimpleNamespace(folder=tmp_path), 0)
    for epoch in epochs:
        written.add(epoch)
    assert log.read(tmp_path) == epochs
    assert log.read(tmp_path / "nowhere") == []
    members = [
        Member(0, "a\n.jpg", "cat", "first", 0, "keep"),
        Member(0, "b", "x", "near", 7, "keep"),
    ]
    duplicates.save(tmp_path / duplicates.DUPLICATES, members)
    assert duplicates.load(tmp_path) == [members[0]._replace(path="a\\n.jpg"), members[1]]
    (tmp_path / duplicates.DUPLICATES).write_text("cluster,path\nx,y\n")
    with pytest.raises(UserError, match="build the data set again"):
        duplicates.load(tmp_path)


def test_suspects_of_screens_are_found_in_the_records(records, tmp_path):
    copy = shutil.copytree(records, tmp_path / "records")
    manifest = manifests.load(copy)
    first = next(Subset(manifest, ("train",)).records())
    (source,) = manifest.arguments["source"]
    rows = [
        ["path", "label", "score", "reason", "action"],
        [f"{source}/{first.filename}", "cat", "12.5", "too <small>", "kept"],
        [f"{source}/gone.jpg", "dog", "3", "no cat, no dog", "dropped"],
    ]
    with open(copy / "screen-size.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    dataclasses.replace(manifest, screens={"size": 2}).save(copy)
    chapter = dataset_chapter.write(manifests.load(copy), "data-")
    found, gone = chapter.screens["size"]
    assert found.picture.alt == f"{source}/{first.filename}, labelled cat"
    assert gone.picture is None
    text = run_report.render([], [chapter], comparison.Comparison("", [], {}))
    page = Page(text)
    assert "too <small>" in page.words
    assert f"{source}/gone.jpg" in page.words


class TestPublishedRecipes:
    @pytest.mark.parametrize("recipe", published_recipes.recipes(), ids=lambda each: each.recipe)
    def test_a_recipe_equals_its_flagfile(self, recipe):
        config = read(recipe.recipe)
        for name, value in recipe.options.items():
            assert getattr(config, name) == value
        lines = (CONFIGS / f"{recipe.recipe}.flags").read_text(encoding="utf-8").splitlines()
        flags = {line[2:].split("=")[0] for line in lines if line.startswith("--")}
        ours = {"weights", "calibration", "calibration_bounds"}
        assert flags - ours == set(recipe.options)
        comment = " ".join(line for line in lines if line.startswith("# Published"))
        for pattern, value in (
            (r"validation loss ([\d.]+)", recipe.log_loss),
            (r"accuracy ([\d.]+)", recipe.accuracy),
            (r"Kaggle ([\d.]+)", recipe.kaggle),
        ):
            match = re.search(pattern, comment)
            assert (match and float(match[1].rstrip("."))) == value, pattern
        short = dataclasses.replace(config, epochs=1, weights="none")
        assert published_recipes.followed(short) == recipe
        assert published_recipes.followed(dataclasses.replace(short, head="dense(7)")) is None

    def test_every_flagfile_with_a_figure_is_there(self):
        with_figures = {
            path.stem
            for path in CONFIGS.glob("*.flags")
            if re.search(r"# Published on .*\d", path.read_text(encoding="utf-8"))
        }
        assert with_figures == {each.recipe for each in published_recipes.recipes()}

    def test_they_are_shown_for_cats_and_dogs_only(self, text, hostile):
        assert "r3-xception-model4" in text
        (found,) = target.load([str(hostile)])
        assert not published_recipes.is_comparable(found)


@pytest.mark.slow  # starts a browser
def test_the_page_fits_a_phone_and_has_no_errors(run, text):
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs the browser chromium")
    problems = []
    arguments = {"executable_path": CHROMIUM, "args": ["--no-sandbox", "--disable-gpu"]}
    with playwright.sync_playwright() as started, started.chromium.launch(**arguments) as browser:
        shown = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        shown.on("console", lambda message: problems.append(message.text))
        shown.on("pageerror", lambda error: problems.append(str(error)))
        shown.on("request", lambda request: problems.append(request.url))
        shown.goto((run / "report.html").as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390
        assert shown.evaluate("[...document.images].every(i => i.complete && i.naturalWidth)")
    assert [each for each in problems if not each.startswith(("data:", "file:"))] == []
