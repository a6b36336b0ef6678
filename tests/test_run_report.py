"""The page about trained classifiers: every part, of runs whole and broken, and nothing outside."""

import csv
import dataclasses
import importlib.util
import io
import pathlib
import re
import shutil

import numpy as np
import pytest
from conftest import TINY, draw
from PIL import Image
from test_configs import CONFIGS, read
from test_report import Page

from tfpipe import build_records, ensemble, report, train
from tfpipe.core.errors import UserError
from tfpipe.images import duplicates
from tfpipe.images.duplicates import Member
from tfpipe.input.pipeline import eval_batches
from tfpipe.records import manifest
from tfpipe.records.part import Part
from tfpipe.reporting import (
    comparison,
    curves,
    images,
    layers,
    neighbours,
    pictures,
    predictions,
    published,
    results,
    structure,
    subject,
)
from tfpipe.reporting.predictions import Predictions
from tfpipe.runs import finish, trained
from tfpipe.training import log
from tfpipe.training.config import TrainConfig

HOSTILE = ("<script>alert(1)<b>", "a & 'b' \"c\"", "$\\frac{x$", "plain")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def write(*folders, **changes):
    """Runs the command on folders, quickly unless told otherwise; returns the page's text."""
    options = {"run_dir": ",".join(map(str, folders)), "pictures": 2, "neighbours": 20}
    report.main(report.Options(**options | changes))
    default = "report.html" if len(folders) == 1 else "comparison.html"
    path = pathlib.Path(changes.get("out") or folders[0] / default)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(run_dir, tmp_path_factory):
    """A copy of a finished run: what is written there is nothing to other tests."""
    return shutil.copytree(run_dir, tmp_path_factory.mktemp("run") / "first")


@pytest.fixture(scope="module")
def text(run):
    return write(run, show="feature_maps,filters")


@pytest.fixture(scope="module")
def other(records, tmp_path_factory):
    """A run of two stages on the same records."""
    folder = tmp_path_factory.mktemp("other") / "second"
    stages = "a:from=head,epochs=1;b:from=all,epochs=2"
    train.main(
        TrainConfig(
            records=str(records), run_dir=str(folder), **TINY | {"stages": stages, "seed": 3}
        )
    )
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A run on four classes with names that nobody should use."""
    folder = tmp_path_factory.mktemp("hostile")
    for index, name in enumerate(HOSTILE):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(12):
            picture = draw("cat" if index % 2 else "dog", 100 * index + number)
            picture.save(folder / "images" / name / f"<i>{number}&\n.jpg")
    build_records.main(
        build_records.Options(
            source=(str(folder / "images"),),
            out=str(folder / "records"),
            workers=1,
            report=False,
            splits="train:0.5,val:0.5",
        )
    )
    config = TINY | {"epochs": 1, "tta": "", "image_size": "32"}
    train.main(TrainConfig(records=str(folder / "records"), run_dir=str(folder / "run"), **config))
    return folder / "run"


def ids(text):
    return {attrs["id"] for _, attrs in Page(text).tags if "id" in attrs}


def assert_self_contained(text):
    found = Page(text)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in found.tags}
    assert "://" not in text
    assert "url(" not in text
    for tag, attrs in found.tags:
        if tag == "img":
            assert re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*$", attrs["src"])
            assert attrs["alt"].strip()
    links = [link for link in found.links if not link.startswith("#")]
    assert not links
    assert {link[1:] for link in found.links} <= ids(text)


def test_a_run_has_every_part(text, run):
    assert {"result", "pictures", "training", "model", "data"} <= ids(text)
    assert {"data-classes", "data-images", "data-files"} <= ids(text)
    assert_self_contained(text)
    found = Page(text)
    told = finish.read_predictions(run / "predictions.csv")
    accuracy = (told["probabilities"].argmax(1) == told["label"]).mean()
    assert [row[:2] for row in found.rows if row and row[0] == "accuracy"] == [
        ["accuracy", f"{accuracy:.4f}"]
    ]
    epochs = log.read(run)
    best = min(epochs, key=lambda epoch: epoch.val_loss)
    (row,) = [row for row in found.rows if row and row[0] == "all" and len(row) == 9]
    assert row[1:5] == ["3", str(best.epoch), f"{best.loss:.4f}", f"{best.val_loss:.4f}"]
    words = " ".join("".join(found.texts).split())
    for title in (
        *("Most wrong", "Least certain", "Most certain", "Labels that may be wrong"),
        "What its layers see",
    ):
        assert title in words


def test_every_plot_is_a_png_file_too(text, run):
    names = {path.stem for path in (run / "plots").iterdir()}
    assert names >= {*results.PLOTS, *curves.PLOTS, "structure", "filters", "feature_maps"}
    assert names >= {f"data-{name}" for name in ("classes", "size", "aspect", "brightness")}
    for path in (run / "plots").iterdir():
        with Image.open(path) as drawn:
            assert drawn.format == "PNG"
            assert len(drawn.convert("RGB").getcolors(2**24)) > 8, path


def test_nothing_else_of_the_run_changes(run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "run")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    write(copy, out=str(tmp_path / "page.html"), pictures=0, neighbours=0)
    after = {path for path in copy.rglob("*") if path.is_file() and path.parent.name != "plots"}
    assert after == set(before)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_same_run_gives_the_same_page(text, run, tmp_path):
    again = write(run, out=str(tmp_path / "again.html"), show="feature_maps,filters")
    assert again == text


def test_hostile_names_of_many_classes_stay_text(many):
    text = write(many)
    assert_self_contained(text)
    found = Page(text)
    assert "<script>" not in text
    assert "<i>1" not in text
    words = "".join(found.texts)
    for name in HOSTILE:
        assert name in words
    assert "&\\n.jpg" in words
    assert any(row[:1] == ["Class"] and "Taken for" in row for row in found.rows)
    assert {path.stem for path in (many / "plots").iterdir()} >= set(results.PLOTS)


def test_several_runs_are_compared(run, other):
    text = write(run, other)
    assert_self_contained(text)
    assert {"comparison", "r1-result", "r2-result", "r1-training", "r2-model", "data"} <= ids(text)
    assert len(re.findall(r'id="data"', text)) == 1
    found = Page(text)
    parts = [finish.read_predictions(folder / "predictions.csv") for folder in (run, other)]
    right = [part["probabilities"].argmax(1) == part["label"] for part in parts]
    words = " ".join("".join(found.texts).split())
    assert f"Both are right on {int((right[0] & right[1]).sum())} images" in words
    assert f"neither on {int((~right[0] & ~right[1]).sum())}." in words
    assert " in log loss" in words
    assert {"comparison-loss", "comparison-accuracy", "comparison-1"} <= {
        path.stem for path in (run / "plots").iterdir()
    }
    starts = [row[0] for row in found.rows if row and row[0] in ("a", "b")]
    assert starts == ["a", "b"]


def test_runs_of_other_images_are_not_compared_one_by_one(run, many):
    text = write(run, many, pictures=0, neighbours=0, out=str(run.parent / "page.html"))
    assert "cannot be compared image by image" in " ".join(text.split())
    assert_self_contained(text)


class TestBroken:
    @pytest.fixture
    def copy(self, run_dir, tmp_path):
        return shutil.copytree(run_dir, tmp_path / "run")

    def test_without_predictions_they_are_computed(self, copy, capsys):
        told = finish.read_predictions(copy / "predictions.csv")
        (copy / "predictions.csv").unlink()
        (copy / "calibration.json").unlink()
        text = write(copy, pictures=1, neighbours=0)
        assert "best weights so far" in text
        assert not (copy / "predictions.csv").exists()
        (found,) = subject.load([str(copy)])
        computed = predictions.find(found, manifest.load(found.first.records))
        assert computed.names.tolist() == told["name"].tolist()
        odds = 1 / (1 + np.exp(-told["logits"][:, 0].astype(np.float64)))
        np.testing.assert_allclose(computed.probabilities[:, 1], odds, atol=1e-5)

    def test_too_many_images_are_left_to_the_command(self, copy, monkeypatch, capsys):
        (copy / "predictions.csv").unlink()
        monkeypatch.setattr(predictions, "MAX_COMPUTED", 3)
        text = write(copy)
        assert "run tfpipe.train there to its end" in text
        assert "training" in ids(text)
        assert "result" not in ids(text)

    def test_a_training_before_its_first_epoch_ended(self, copy, capsys):
        for name in ("best.weights.h5", "predictions.csv", "calibration.json", "log.csv"):
            (copy / name).unlink()
        text = write(copy)
        assert {"training", "model", "data"} <= ids(text)
        assert "result" not in ids(text)
        assert "No epoch has ended yet" in text
        assert (
            "it has no trained weights yet: run tfpipe.train there again" in capsys.readouterr().err
        )
        assert_self_contained(text)

    def test_records_that_are_gone(self, copy, capsys):
        text = write(copy, records=str(copy / "nowhere"))
        assert {"result", "training", "model"} <= ids(text)
        assert not {"pictures", "data"} & ids(text)
        assert "There are no pictures" in text
        assert "nowhere" in capsys.readouterr().err

    def test_other_records_are_noticed(self, copy, many):
        other = trained.load(many).records
        text = write(copy, records=other)
        assert "There are no pictures" in text
        assert "result" in ids(text)

    def test_a_damaged_log_is_told(self, copy):
        (copy / "log.csv").write_text("epoch,stage\n1,x\n")
        with pytest.raises(UserError, match=r"log\.csv is damaged"):
            write(copy)
        assert not (copy / "report.html").exists()


class TestFolds:
    @pytest.fixture(scope="class")
    def folded(self, image_folder, tmp_path_factory):
        folder = tmp_path_factory.mktemp("folded")
        build_records.main(
            build_records.Options(
                source=(str(image_folder),),
                out=str(folder / "records"),
                workers=1,
                report=False,
                folds=2,
            )
        )
        config = TINY | {"epochs": 1, "tta": ""}
        train.main(
            TrainConfig(
                records=str(folder / "records"), run_dir=str(folder / "cv"), folds=2, **config
            )
        )
        return folder / "cv"

    def test_a_cross_validation(self, folded):
        text = write(folded)
        assert {"result", "pictures", "training", "model", "data"} <= ids(text)
        assert (
            "classified by a run that was not trained on it and calibrated by the others"
            in " ".join(text.split())
        )
        runs = [row[0] for row in Page(text).rows if row and row[0].startswith("fold-")]
        assert runs == ["fold-0", "fold-1"]
        assert "parameters in each of 2 runs; trained are" in text

    def test_one_that_goes_on_has_the_training(self, folded, tmp_path, capsys):
        copy = shutil.copytree(folded, tmp_path / "cv")
        (copy / "folds.json").unlink()
        shutil.rmtree(copy / "fold-1")
        text = write(copy)
        assert {"training", "model", "data"} <= ids(text)
        assert "result" not in ids(text)
        assert "unfinished cross-validation" in text


def test_an_ensemble(run, other, tmp_path):
    options = ensemble.Options(runs=f"{run},{other}", out=str(tmp_path / "ens"))
    ensemble.main(options)
    text = write(tmp_path / "ens")
    assert {"result", "pictures", "training", "model", "data"} <= ids(text)
    runs = {row[0] for row in Page(text).rows if row and len(row) == 10}
    assert {"first", "second"} <= runs
    assert text.count("parameters; trained are") == 2
    ensemble.main(dataclasses.replace(options, overwrite=True))  # the report is a part of it
    assert not (tmp_path / "ens" / "report.html").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"show": "weights"}, "'weights' is none of feature_maps, filters"),
        ({"pictures": -1}, "--pictures=-1: give 0 to 48"),
        ({"neighbours": 10**9}, "--neighbours=1000000000: give 0 to 100,000"),
        ({"out": "nowhere/at/all.html"}, "give a file in a folder that exists"),
        ({"run_dir": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_options_are_explained(run, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        report.main(report.Options(**{"run_dir": str(run)} | changes))


def test_a_folder_twice_is_refused(run):
    with pytest.raises(UserError, match="name each folder once"):
        write(run, run / ".." / run.name)


def test_a_missing_package_is_told(run, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "jinja2" else real(name)
    )
    with pytest.raises(UserError, match=r"pip install 'tfpipe\[report\]'"):
        write(run)


def test_the_help_names_what_can_be_shown():
    assert report._SHOWN == layers.SHOWN


def answers(probabilities, labels):
    probabilities = np.asarray(probabilities, np.float32)
    names = np.array([f"{index}.jpg" for index in range(len(labels))])
    return Predictions(names, np.array(labels), probabilities, probabilities)


def test_pictures_are_chosen_by_what_their_group_says():
    found = answers(
        [[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.05, 0.95], [0.7, 0.3]], [1, 0, 0, 1, 0]
    )
    assert pictures.wrong(found, 9) == [0, 1]
    assert pictures.wrong(found, 1) == [0]
    assert pictures.uncertain(found, 2) == [2, 4]
    assert pictures.certain(found, 3) == [3, 0, 1]


def test_a_heat_map_colours_where_it_is_hot():
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1
    drawn = np.asarray(pictures.overlay(Image.new("RGB", (80, 40), (120, 120, 120)), heat), int)
    assert drawn.shape == (40, 80, 3)
    cold, hot = drawn[20, 5], drawn[20, 75]
    assert hot[0] - hot[2] > 80
    assert abs(cold - 120).max() < 40


def test_neighbours_are_those_of_the_smallest_angle(run):
    (found,) = subject.load([str(run)])
    described = manifest.load(found.first.records)
    val, train_part = found.trained.validation(described), images.learned(found.trained, described)
    predictor = found.trained.restore()
    asked = images.read([val], {0, 3})
    near = neighbours.find(
        predictor, [asked[0], asked[3]], train_part, found.classes, train_part.images
    )

    def features(part):
        batches = eval_batches(part, image_size=predictor.image_size, batch_size=8)
        rows = [
            (predictor.features(b["image"]).numpy(), b["name"].numpy(), b["sample_weight"])
            for b in batches
        ]
        values = np.concatenate([r[0][r[2].numpy() > 0] for r in rows]).astype(np.float64)
        names = np.concatenate([r[1][r[2].numpy() > 0] for r in rows])
        return values / np.linalg.norm(values, axis=1, keepdims=True), names

    (there, names), (own, _) = features(train_part), features(val)
    for index, row in zip((0, 3), near, strict=True):
        apart = 1 - there @ own[index]
        order = np.argsort(apart, kind="stable")[: neighbours.COUNT]
        np.testing.assert_allclose([each.distance for each in row], apart[order], atol=1e-5)
        assert {each.name for each in row} <= {name.decode() for name in names}


def test_an_image_is_not_its_own_neighbour(run):
    (found,) = subject.load([str(run)])
    part = images.learned(found.trained, manifest.load(found.first.records))
    (fields,) = images.read([part], {2}).values()
    (near,) = neighbours.find(found.trained.restore(), [fields], part, found.classes, 99)
    assert len(near) == neighbours.COUNT
    assert fields.filename not in {each.name for each in near}


def test_pictures_are_those_of_the_predictions(run):
    (found,) = subject.load([str(run)])
    described = manifest.load(found.first.records)
    told = predictions.find(found, described)
    read_back = images.read(images.predicted(found.trained, described), range(len(told)))
    assert [read_back[index].filename for index in range(len(told))] == told.names.tolist()
    with pytest.raises(UserError, match="fewer images"):
        images.read(images.predicted(found.trained, described), {len(told)})
    with pytest.raises(UserError, match="not what the run was validated on"):
        images.check(read_back[0], told.names[1], told.labels[1], "records")


def test_batches_are_what_evaluation_sees(records):
    part = Part(manifest.load(records), ("val",))
    expected = np.concatenate(
        [b["image"].numpy()[b["sample_weight"].numpy() > 0]
         for b in eval_batches(part, image_size=24, batch_size=8)]
    )  # fmt: skip
    found = [pixels.numpy()[:count] for pixels, count in images.batches(part.records(), 24)]
    np.testing.assert_array_equal(np.concatenate(found), expected)
    first = next(part.records())
    np.testing.assert_array_equal(images.decoded(first, 24), expected[0])


def test_an_image_that_cannot_be_decoded_is_told(records):
    fields = next(Part(manifest.load(records), ("val",)).records())
    broken = fields._replace(encoded=b"\xff\xd8 no more", filename="a\n.jpg")
    with pytest.raises(UserError, match=r"a\\n\.jpg cannot be decoded"):
        images.thumbnail(broken, 20)
    with pytest.raises(UserError, match="cannot be decoded"):
        list(images.batches([fields, broken], 20))


def test_the_structure_counts_what_the_stages_train(other):
    (found,) = subject.load([str(other)])
    built, told = structure.build(found.first)
    (blocks,) = told.towers.values()
    everything = [*blocks, *told.head]
    assert sum(block.parameters for block in everything) == built.model.count_params()
    assert sum(block.trained for block in everything) == told.stages["b"]
    head = sum(block.trained for block in everything if block.stage == 0)
    assert head == told.stages["a"] == sum(block.trained for block in told.head)
    assert structure.draw(told).startswith(b"\x89PNG")


def test_a_frozen_backbone_is_told(tiny_config):
    from tfpipe.records import manifest as manifests
    from tfpipe.training import run as runs

    config = tiny_config(backbones="vgg16", stages="head", pooling="avg", head="")
    started = runs.start(config, manifests.load(config.records), "float32", False)
    _, told = structure.build(started)
    ((name, blocks),) = told.towers.items()
    assert name == "vgg16, 32 x 32"
    assert {block.stage for block in blocks} == {structure.FROZEN}
    assert [block.name for block in blocks] == [f"block{n}" for n in range(1, 6)]
    assert sum(block.parameters for block in blocks) == 14_714_688
    assert told.stages == {"head": 513}


def test_many_blocks_are_drawn_some_at_a_time():
    blocks = [structure.Block(f"b{n}", "1", n + 1, 0, structure.FROZEN) for n in range(90)]
    merged = structure._merged(blocks)
    assert len(merged) == structure.MAX_ROWS
    assert sum(block.parameters for block in merged) == sum(range(1, 91))
    assert merged[0].name.startswith("b0")
    assert merged[-1].name.endswith("b89")


def test_runs_are_compared_on_the_same_images_in_any_order():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    p = rng.uniform(0.01, 0.99, (2, 50))
    first = answers(np.stack([1 - p[0], p[0]], 1), labels)
    second = answers(np.stack([1 - p[1], p[1]], 1), labels)
    order = rng.permutation(50)
    shuffled = Predictions(
        second.names[order], labels[order], second.probabilities[order], second.raw[order]
    )
    best, (pair,) = comparison.pairs(
        {"a": first, "b": shuffled}, {"a": ("x", "y"), "b": ("x", "y")}
    )
    assert best in "ab"
    right = [found.guesses == labels for found in (first, second)]
    one, two = right if best == "a" else right[::-1]
    assert pair.agreement == (
        *((one & two).sum(), (one & ~two).sum()),
        *((~one & two).sum(), (~one & ~two).sum()),
    )
    assert len(pair.differ) == pair.agreement[1] + pair.agreement[2]
    for index, its in pair.differ:
        names = (first.names, shuffled.names) if best == "a" else (shuffled.names, first.names)
        assert names[0][index] == names[1][its]
    assert pair.sentences[0].endswith(f"p = {pair.p_value:.2g}")


@pytest.mark.parametrize("classes", [2, 3, 9, 40])
@pytest.mark.parametrize("name", results.PLOTS)
def test_any_number_of_classes_can_be_drawn(name, classes):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 60)
    scores = np.exp(rng.normal(0, 1, (60, classes)) + 3 * np.eye(classes)[labels])
    found = answers(scores / scores.sum(1, keepdims=True), labels)
    drawn = results.PLOTS[name][0](found, [f"class <{n}> of many" for n in range(classes)])
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.width == 896
        assert len(picture.convert("RGB").getcolors(2**24)) > 20


@pytest.mark.parametrize("name", results.PLOTS)
def test_images_of_one_class_can_be_drawn(name):
    found = answers([[0.7, 0.3]] * 3, [0, 0, 0])
    assert results.PLOTS[name][0](found, ["cat", "dog"]).startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize("name", curves.PLOTS)
def test_any_number_of_epochs_can_be_drawn(name, count):
    epochs = [
        log.Epoch(
            n + 1, "head" if n < 2 else "all", 1 / (n + 1), 0.9, 0.0, 0.5, 0.0, 10.0, 0.0, 1.0
        )
        for n in range(count)
    ]
    draw_one = curves.PLOTS[name][0]
    assert draw_one({"run": epochs}).startswith(b"\x89PNG")
    assert draw_one({f"run {n}": epochs for n in range(9)}).startswith(b"\x89PNG")


def test_a_log_is_read_as_it_was_written(tmp_path):
    epochs = [log.Epoch(n, "a,b", 0.1 * n, 0.5, 0.3, 0.4, 1e-3, 12.5, 0.25, 3.75) for n in (1, 2)]
    written = log.Log(tmp_path, 0)
    for epoch in epochs:
        written.add(epoch)
    assert log.read(tmp_path) == epochs
    assert log.read(tmp_path / "nowhere") == []


def test_duplicates_are_read_as_they_were_written(tmp_path):
    members = [
        Member(0, "a\n.jpg", "cat", "first", 0, "keep"),
        Member(0, "b", "x", "near", 7, "keep"),
    ]
    duplicates.save(tmp_path / duplicates.DUPLICATES, members)
    assert duplicates.load(tmp_path) == [members[0]._replace(path="a\\n.jpg"), members[1]]
    (tmp_path / duplicates.DUPLICATES).write_text("cluster,path\nx,y\n")
    with pytest.raises(UserError, match="build the data set again"):
        duplicates.load(tmp_path)


def test_what_screens_listed_is_shown(run, records, tmp_path):
    copy = shutil.copytree(records, tmp_path / "records")
    described = manifest.load(copy)
    first = next(Part(described, ("train",)).records())
    (source,) = described.arguments["source"]
    rows = [
        ["path", "label", "score", "reason", "action"],
        [f"{source}/{first.filename}", "cat", "12.5", "too <small>", "kept"],
        [f"{source}/gone.jpg", "dog", "3", "no cat, no dog", "dropped"],
    ]
    with open(copy / "screen-size.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    dataclasses.replace(described, screens={"size": 2}).save(copy)
    text = write(run, records=str(copy), out=str(tmp_path / "page.html"))
    alts = {attrs["alt"] for tag, attrs in Page(text).tags if tag == "img"}
    assert f"{source}/{first.filename}, labelled cat" in alts
    words = "".join(Page(text).texts)
    assert "What the screen size lists first" in words
    assert "too <small>" in words
    assert f"{source}/gone.jpg" in words


class TestPublished:
    @pytest.mark.parametrize("recipe", published.recipes(), ids=lambda each: each.recipe)
    def test_it_says_what_the_flagfile_does(self, recipe):
        config = read(recipe.recipe)
        for name, value in recipe.options.items():
            assert getattr(config, name) == value
        lines = (CONFIGS / f"{recipe.recipe}.flags").read_text(encoding="utf-8").splitlines()
        flags = {line[2:].split("=")[0] for line in lines if line.startswith("--")}
        assert flags - {"weights"} == set(recipe.options)
        comment = " ".join(line for line in lines if line.startswith("# Published"))
        for pattern, value in (
            (r"validation loss ([\d.]+)", recipe.log_loss),
            (r"accuracy ([\d.]+)", recipe.accuracy),
            (r"Kaggle ([\d.]+)", recipe.kaggle),
        ):
            match = re.search(pattern, comment)
            assert (match and float(match[1].rstrip("."))) == value, pattern

    @pytest.mark.parametrize("recipe", published.recipes(), ids=lambda each: each.recipe)
    def test_a_run_of_it_is_known(self, recipe):
        config = dataclasses.replace(read(recipe.recipe), epochs=1, weights="none")
        assert published.of(config) == recipe
        assert published.of(dataclasses.replace(config, head="dense(7)")) is None

    def test_every_flagfile_with_a_figure_is_there(self):
        with_figures = {
            path.stem
            for path in CONFIGS.glob("*.flags")
            if re.search(r"# Published on .*\d", path.read_text(encoding="utf-8"))
        }
        assert with_figures == {each.recipe for each in published.recipes()}

    def test_they_are_shown_for_cats_and_dogs_only(self, text, many):
        assert "r3-xception-model4" in text
        assert "r3-xception-model4" not in write(many, pictures=0, neighbours=0)


def test_a_page_of_other_data_is_small(text):
    assert len(text) < 5_000_000


def test_it_is_fit_for_a_phone_and_has_no_errors(run, text):
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs the browser chromium")
    told = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            for scheme in ("light", "dark"):
                shown = browser.new_page(
                    viewport={"width": 390, "height": 800}, color_scheme=scheme
                )
                shown.on("console", lambda message: told.append(message.text))
                shown.on("pageerror", lambda error: told.append(str(error)))
                shown.on("request", lambda request: told.append(request.url))
                shown.goto((run / "report.html").as_uri())
                width = shown.evaluate("document.documentElement.scrollWidth")
                assert width <= 390
                assert shown.evaluate(
                    "[...document.images].every(i => i.complete && i.naturalWidth)"
                )
        finally:
            browser.close()
    assert [each for each in told if not each.startswith(("data:", "file:"))] == []
