"""tfpipe.predict: its outputs, every kind of classifier, and wrong flags."""

import collections
import csv
import dataclasses
import io
import json
import os
import sys
import uuid
import zipfile

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from serving_demo import embedded, run_command
from sklearn import metrics

from tfpipe import predict
from tfpipe.core.errors import UserError
from tfpipe.images.store import Store, StoredImage
from tfpipe.input import pipeline
from tfpipe.model import inference
from tfpipe.predictions import chunk, formats, order, overlay
from tfpipe.predictions.table import Predictions
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.runs import predictions_file
from tfpipe.training import run_folder as runs

pytestmark = pytest.mark.timeout(240)  # may include the training and the export of fixtures

HERE = "--runner=DirectRunner --direct_running_mode=in_memory"
TWO = "--runner=DirectRunner --direct_running_mode=multi_threading --direct_num_workers=2"


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: numbers(k, v or None) for k, v in row.items()} for row in rows]


def numbers(column, value):
    return float(value) if column.startswith("probability_") else value


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_parquet(path):
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist()


READERS = {"csv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet}


def run(out, source, **flags):
    return predict.main(predict.Options(source=(str(source),), out=str(out), **flags))


def summary(out):
    return json.loads(out.with_name(f"{out.name}.summary.json").read_text())


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunk, "SIZE", 32)


@pytest.fixture(scope="module")
def expected(run_dir, records):
    """Probabilities of the evaluation, by file name."""
    predictor = runs.load(str(run_dir)).restore()
    manifest = manifests.load(records)
    batches = pipeline.eval_batches(
        Subset(manifest, ("all",)), image_size=predictor.image_size, batch_size=32
    )
    found = inference.predict(predictor, batches, manifest.count(), "evaluating")
    return {n.decode(): row for n, row in zip(found["name"], found["probabilities"], strict=True)}


@pytest.fixture(scope="module")
def server(export_dir):
    """The address of a server of the export."""
    with embedded(export_dir, model_name="tiny") as server:
        yield server.address


@pytest.fixture
def models(run_dir, export_dir, server):
    """The flags of each kind of model; all are the same model."""
    return {
        "run": {"run_dir": str(run_dir)},
        "export": {"export_dir": str(export_dir / "1")},
        "server": {"server": server, "model_name": "tiny", "batch_size": 7, "concurrency": 3},
    }


@pytest.fixture(params=["run", "export", "server"])
def model(request, models):
    return models[request.param]


@pytest.fixture
def damaged(tmp_path, image_folder):
    """Ten good images, one that is cut, and a read-me."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.jpg").write_bytes((image_folder / f"dog.{number}.jpg").read_bytes())
    (folder / "7.jpg").write_bytes((folder / "7.jpg").read_bytes()[:900])
    (folder / "README.txt").write_text("no image")
    return folder


def test_every_model_gives_the_evaluations_probabilities(model, image_folder, expected, tmp_path):
    out = tmp_path / "out.jsonl"
    assert run(out, image_folder, **model) == 0
    rows = read_jsonl(out)
    assert [row["name"] for row in rows] == sorted(expected)
    for row in rows:
        found = [row["probability_cat"], row["probability_dog"]]
        np.testing.assert_allclose(found, expected[row["name"]], atol=1e-5)
        assert row["label"] == ("cat", "dog")[expected[row["name"]].argmax()]
        assert row["error"] is None
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "out.jsonl.summary.json"]
    found = summary(out)
    assert found["images"] == 80
    assert found["labels"] == collections.Counter(row["label"] for row in rows)


def test_sources_add_up(image_folder, tmp_path, run_dir):
    for name, numbers in (("a", range(5)), ("b", range(4, 8))):
        (tmp_path / name).mkdir()
        for number in numbers:
            data = (image_folder / f"dog.{number}.jpg").read_bytes()
            (tmp_path / name / f"{number}.jpg").write_bytes(data)
    (tmp_path / "b/README.txt").write_text("no image")
    paths = str(tmp_path / "a"), str(tmp_path / "b")
    out = tmp_path / "out.jsonl"
    options = predict.Options(source=paths, out=str(out), run_dir=str(run_dir))
    assert predict.main(options) == 0
    expected = [f"{paths[0]}/{n}.jpg" for n in range(5)] + [
        f"{paths[1]}/{n}.jpg" for n in range(4, 8)
    ]
    rows = {row["name"]: row["probability_dog"] for row in read_jsonl(out)}
    assert sorted(rows) == sorted(expected)
    assert rows[expected[4]] == pytest.approx(rows[expected[5]], abs=1e-6)  # one image twice
    assert summary(out)["source"] == list(paths)
    with pytest.raises(UserError, match=r"4\.jpg"):  # one id twice, in the form of Kaggle
        predict.main(dataclasses.replace(options, out=str(tmp_path / "out.csv")))
    with pytest.raises(UserError, match="is the same as"):
        predict.main(dataclasses.replace(options, source=(paths[0], f"{paths[0]}/.")))


def test_every_model_rejects_what_is_damaged(model, damaged, tmp_path, run_dir, capsys):
    out = tmp_path / "out.csv"
    assert run(out, damaged, columns="all", **model) == predict.REJECTS
    rows = {row["id"]: row for row in read_csv(out)}
    assert list(rows) == list("0123456789")
    assert rows["7"]["label"] is None
    assert rows["7"]["error"].startswith("damaged: ")
    shares = json.loads((run_dir / "config.json").read_text())["resolved"]["class_shares"]
    prior = [0.5, 0.5] if "server" in model else shares
    assert [rows["7"][f"probability_{name}"] for name in ("cat", "dog")] == pytest.approx(prior)
    assert all(row["error"] is None for name, row in rows.items() if name != "7")
    listed = [row["path"] for row in read_csv(tmp_path / "out.csv.rejects.csv")]
    assert listed == ["7.jpg", "README.txt"]
    said = capsys.readouterr().err.splitlines()
    assert said[-2].startswith("error: 1 of the files could not be read and got ")
    assert "7.jpg (damaged" in said[-2]
    assert said[-1].startswith("1 other files were skipped, the first ")
    found = summary(out)
    assert (found["images"], found["unreadable"], found["skipped"]) == (10, 1, 1)


def test_what_the_server_refuses_is_a_reject(server, damaged, tmp_path, monkeypatch):
    """As where the server reads less than we do."""
    unchecked = lambda self, data: StoredImage(data, "jpeg", 0, 0, "")  # noqa: E731
    monkeypatch.setattr(Store, "convert", unchecked)
    out = tmp_path / "out.jsonl"
    assert run(out, damaged, server=server, model_name="tiny") == predict.REJECTS
    rows = {row["id"]: row["error"] for row in read_jsonl(out)}
    assert rows["7"] == f"refused: {server} answers: damaged"
    assert rows["README"] == f"refused: {server} answers: not a JPEG, PNG, GIF or BMP file"
    assert [name for name, error in rows.items() if error] == ["7", "README"]


def test_every_format_has_the_same_rows(tmp_path):
    predictions = Predictions(
        [f"{number}.jpg" for number in range(10)],
        ("cat", "dog"),
        np.random.default_rng(0).dirichlet([1, 1], 10).astype(np.float32),
        {"7.jpg": ("damaged", "cut")},
        heat_maps={"0.jpg": "maps/0.png"},
    )
    tables = {}
    for form in formats.formats:
        out = tmp_path / f"out{formats.formats[form].suffixes[0]}"
        assert formats.choose("auto", str(out)) == form
        with open(out, "wb") as file:
            formats.formats[form].write(predictions.all(), file)
        tables[form] = READERS[form](out)
    numbers = ["probability_cat", "probability_dog"]
    columns = ["id", "name", "label", *numbers, "error", "heat_map"]
    for place, rows in enumerate(zip(*tables.values(), strict=True)):
        assert [list(row) for row in rows] == [columns] * len(rows)
        for row in rows:
            found = np.array([row.pop(name) for name in numbers], np.float32)
            np.testing.assert_array_equal(
                found, predictions.probabilities[place]
            )  # to the last bit
        assert all(row == rows[0] for row in rows)


def test_kaggle_gets_two_columns_of_any_format_flag(run_dir, damaged, tmp_path):
    out = tmp_path / "scores.txt"
    run(out, damaged, run_dir=str(run_dir), format="csv")
    assert out.read_text().splitlines()[0] == "id,label"
    with pytest.raises(UserError, match=r"ends like no format \(\.csv, .*--format=csv"):
        run(out, damaged, run_dir=str(run_dir))


def test_more_classes_get_a_column_each(tmp_path):
    probabilities = np.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]], np.float32)
    answers = Predictions(
        ["b.jpg", "a.jpg"], ("x", "y", "z"), probabilities, {"b.jpg": ("damaged", "cut")}
    )
    with open(tmp_path / "out.csv", "wb") as file:
        formats.formats["csv"].write(answers.kaggle(), file)
    assert (tmp_path / "out.csv").read_text() == "id,x,y,z\na,0.7,0.2,0.1\nb,0.2,0.3,0.5\n"
    assert [row[:3] for row in answers.all()] == [("a", "a.jpg", "x"), ("b", "b.jpg", None)]
    assert answers.count() == {"x": 1, "y": 0, "z": 0}


def test_ids_are_sorted_as_kaggle_sorts_them():
    names = ["b.jpg", "10.jpg", "x/9.png", "2.jpg", "02.jpg", "a.b.jpg", "9.jpg", "٣.jpg"]
    assert order.ordered(names) == [
        *("02.jpg", "2.jpg", "9.jpg", "x/9.png", "10.jpg"),
        *("a.b.jpg", "b.jpg", "٣.jpg"),
    ]
    assert order.ordered(["9" * 5000, "1" + "0" * 5000]) == ["9" * 5000, "1" + "0" * 5000]


@pytest.mark.slow
def test_names_of_any_kind(run_dir, image_folder, tmp_path):
    source = tmp_path / "in"
    (source / "more").mkdir(parents=True)
    data = (image_folder / "cat.0.jpg").read_bytes()
    names = ["a\nb.jpg", 'quo"te.jpg', "\udcff.jpg", "more/x.jpg", "x.png", "\x1b[31m.jpg"]
    for name in names:
        (source / name).write_bytes(data)
    for form in formats.formats:
        out = tmp_path / f"out.{form}"
        assert run(out, source, run_dir=str(run_dir), columns="all", explain=f"{out}.maps") == 0
        rows = READERS[form](out)
        assert sorted(row["name"] for row in rows) == sorted(
            [*names[:2], "\\udcff.jpg", *names[3:]]
        )
        assert [row["id"] for row in rows].count("x") == 2
        assert len({row["heat_map"] for row in rows}) == 6
        assert all(os.path.basename(row["heat_map"]).isprintable() for row in rows)
        assert all(os.path.isfile(row["heat_map"]) for row in rows)
    with pytest.raises(UserError, match=r"'more/x\.jpg' and 'x\.png' have the same id 'x'.*=all"):
        run(tmp_path / "k.csv", source, run_dir=str(run_dir))


def test_what_a_source_skips_gets_a_row_if_it_is_meant_as_an_image(run_dir, damaged, tmp_path):
    source = tmp_path / "list.csv"
    rows = ["in/1.jpg", "in/gone.jpg", "in/1.jpg", "gone/1.jpg", "notes.txt"]
    source.write_text("\n".join(["path", *rows, ""]))
    out = tmp_path / "out.jsonl"
    assert run(out, source, run_dir=str(run_dir)) == predict.REJECTS
    errors = {row["name"]: row["error"] for row in read_jsonl(out)}
    assert errors["in/1.jpg"] is None
    assert errors.keys() == {"in/1.jpg", "in/gone.jpg"}
    assert errors["in/gone.jpg"].startswith("missing: ")
    listed = [(row["path"], row["reason"]) for row in read_csv(tmp_path / "out.jsonl.rejects.csv")]
    assert listed == [
        ("gone/1.jpg", "missing"),  # another has its id
        ("in/1.jpg", "repeated name"),
        ("in/gone.jpg", "missing"),
        ("notes.txt", "missing"),
    ]


def test_nothing_but_other_files_is_one_line(run_dir, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/README").write_text("x")
    with pytest.raises(
        UserError, match=r"^`source`: none of the 1 files .* is an image, the first"
    ):
        run(tmp_path / "out.csv", tmp_path / "in", run_dir=str(run_dir))
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("kind", ["zip", "records", "shard"])
def test_other_sources_give_the_same(kind, run_dir, records, image_folder, tmp_path):
    source = records
    if kind == "zip":
        source = tmp_path / "in.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in sorted(image_folder.iterdir(), reverse=True):
                archive.write(path, path.name)
    elif kind == "shard":
        source = next(records.glob("train-00000*"))
    assert run(tmp_path / "a.jsonl", image_folder, run_dir=str(run_dir)) == 0
    assert run(tmp_path / "b.jsonl", source, run_dir=str(run_dir)) == 0
    whole = {row["name"]: row for row in read_jsonl(tmp_path / "a.jsonl")}
    found = {row["name"]: row for row in read_jsonl(tmp_path / "b.jsonl")}
    for name, row in found.items():  # sums may differ in the last digit: it is in another batch
        tf.nest.assert_same_structure(row, whole[name])
        for value, other in zip(tf.nest.flatten(row), tf.nest.flatten(whole[name]), strict=True):
            close = pytest.approx(other, rel=1e-5) if isinstance(other, float) else other
            assert value == close
    assert (len(found) == 80) == (kind != "shard")
    assert found


def test_the_threshold_is_chosen_on_the_runs_validation_images(run_dir, image_folder, tmp_path):
    found = predictions_file.read(run_dir / "predictions.csv")
    truth, second = found["label"], found["probabilities"][:, 1]
    out = tmp_path / "out.jsonl"
    run(out, image_folder, run_dir=str(run_dir), threshold="f1")
    chosen = summary(out)["threshold"]
    cuts = [metrics.f1_score(truth, second >= cut) for cut in np.unique(second)]
    assert chosen["score"] == pytest.approx(max(cuts))
    assert chosen["images"] == len(truth)
    for row in read_jsonl(out):
        assert row["label"] == ("dog" if row["probability_dog"] >= chosen["value"] else "cat")
    # Within other bounds the threshold is too: it is chosen on what they make of those images.
    run(out, image_folder, run_dir=str(run_dir), threshold="cost:1,1", clip="0.49,0.51")
    assert 0.49 < summary(out)["threshold"]["value"] < 0.51
    assert min(summary(out)["labels"].values()) > 30


def test_a_threshold_moves_labels_and_no_probability(export_dir, image_folder, tmp_path):
    tables = {}
    for threshold in ("", "0", "1"):
        out = tmp_path / "out.jsonl"
        run(out, image_folder, export_dir=str(export_dir), threshold=threshold)
        tables[threshold] = read_jsonl(out)
    labels = {key: {row["label"] for row in rows} for key, rows in tables.items()}
    assert labels == {"0": {"dog"}, "1": {"cat"}, "": {"cat", "dog"}}
    for rows in zip(*tables.values(), strict=True):
        assert len({row["probability_dog"] for row in rows}) == 1


@pytest.mark.parametrize("model", ["server"], indirect=True)
def test_bounds_narrow_what_others_answer(model, image_folder, tmp_path):
    run(tmp_path / "free.jsonl", image_folder, **model)
    run(tmp_path / "out.jsonl", image_folder, clip="0.4,0.7", **model)
    free = [row["probability_dog"] for row in read_jsonl(tmp_path / "free.jsonl")]
    rows = read_jsonl(tmp_path / "out.jsonl")
    np.testing.assert_allclose([r["probability_dog"] for r in rows], np.clip(free, 0.4, 0.7), 1e-6)
    np.testing.assert_allclose([r["probability_dog"] + r["probability_cat"] for r in rows], 1)


@pytest.mark.slow
def test_every_model_draws_the_same_heat_maps(models, damaged, tmp_path):
    """They are of the images' proportions, and of the readable ones among the first only."""
    for name, flags in models.items():
        folder = tmp_path / name
        run(tmp_path / "o.jsonl", damaged, explain=str(folder), explain_limit=9, **flags)
        assert sorted(os.listdir(folder)) == [f"{n + 1}-{n}.png" for n in range(9) if n != 7]
    for path in (tmp_path / "run").iterdir():
        pixels = np.asarray(PIL.Image.open(path)).astype(int)
        for name in models.keys() - {"run"}:
            other = np.asarray(PIL.Image.open(tmp_path / name / path.name))
            assert np.abs(pixels - other).mean() < 0.1
        with PIL.Image.open(damaged / f"{path.stem.split('-')[1]}.jpg") as picture:
            ratio = pixels.shape[1] / pixels.shape[0]
            assert ratio == pytest.approx(picture.width / picture.height, rel=0.02)
            bare = np.asarray(picture.resize(pixels.shape[1::-1]))
        assert np.abs(pixels - bare).mean() > 5  # something is drawn


def test_a_heat_map_is_laid_over_its_image(tmp_path):
    PIL.Image.new("RGB", (600, 300), (128, 128, 128)).save(tmp_path / "grey.png")
    heat = np.zeros((8, 8), np.float32)
    heat[:, 6:] = 1
    drawn = overlay.png((tmp_path / "grey.png").read_bytes(), heat)
    found = np.asarray(PIL.Image.open(io.BytesIO(drawn)))
    assert found.shape == (256, 512, 3)
    assert found[128, 100].max() < 100  # cold places are dark
    red, green, blue = found[128, 500].tolist()
    assert red > green > 128 > blue  # hot ones are clear and yellow


def test_a_folder_of_heat_maps_is_new(run_dir, damaged, tmp_path):
    (tmp_path / "maps").mkdir()
    run(tmp_path / "o.jsonl", damaged, run_dir=str(run_dir), explain=str(tmp_path / "maps"))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match=r"^--explain=.*/maps holds files already, as '0*1-0\.png'"):
        run(tmp_path / "p.jsonl", damaged, run_dir=str(run_dir), explain=str(tmp_path / "maps"))
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.slow
@pytest.mark.parametrize("beam_args", [HERE, TWO])
def test_beam_gives_the_same_bytes(beam_args, run_dir, damaged, image_folder, tmp_path):
    for path in image_folder.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    made = {}
    for runner, args in (("local", ""), ("beam", beam_args)):
        folder = tmp_path / runner
        folder.mkdir()
        maps = tmp_path / "maps"
        flags = {"explain": str(maps), "explain_limit": 5, "run_dir": str(run_dir)}
        status = run(folder / "o.jsonl", damaged, runner=runner, beam_args=args, **flags)
        assert status == predict.REJECTS
        made[runner] = {path.name: path.read_bytes() for path in folder.iterdir()}
        made[runner] |= {path.name: path.read_bytes() for path in maps.iterdir()}
        maps.rename(folder / "maps")
    assert made["beam"] == made["local"]
    assert len(made["local"]) == 3 + 5


@pytest.mark.slow
def test_at_a_url(run_dir, damaged, tmp_path):
    url = f"ram://test-{uuid.uuid4().hex}"
    tf.io.gfile.makedirs(url)
    for folder in (str(tmp_path), url):
        flags = {"explain": f"{folder}/maps", "explain_limit": 2, "run_dir": str(run_dir)}
        run(f"{folder}/o.parquet", damaged, **flags)
    names = ["o.parquet", "o.parquet.rejects.csv", "o.parquet.summary.json"]
    assert sorted(tf.io.gfile.listdir(url)) == ["maps", *names]
    (tmp_path / "copy.parquet").write_bytes(tf.io.gfile.GFile(f"{url}/o.parquet", "rb").read())
    rows, there = read_parquet(tmp_path / "o.parquet"), read_parquet(tmp_path / "copy.parquet")
    for found, folder in ((there, url), (rows, tmp_path)):
        maps = [f"{folder}/maps/1-0.png", f"{folder}/maps/2-1.png"]
        assert [row.pop("heat_map") for row in found] == maps + [None] * 8
    assert there == rows
    drawn = tf.io.gfile.GFile(f"{url}/maps/2-1.png", "rb").read()
    assert drawn == (tmp_path / "maps/2-1.png").read_bytes()
    tf.io.gfile.rmtree(url)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", ["--run_dir, --export_dir or --server", "none of them"]),
        ("--run_dir=a --server=b", ["--run_dir=a and --server=b", "give one"]),
        ("--run_dir=a --model_name=b", ["--model_name", "give --server too"]),
        ("--run_dir=a --tls", ["--tls", "give --server too"]),
        ("--server=a --retries=-1", ["--retries"]),
        ("--server=a --timeout=0", ["--timeout"]),
        ("--export_dir=a --tta=flip_lr", ["--tta=flip_lr", "--run_dir"]),
        ("--export_dir=a --threshold=f1", ["--threshold=f1", "--run_dir"]),
        ("--run_dir=a --threshold=f1 --tta=none", ["--threshold=f1", "--tta"]),
        ("--run_dir=a --threshold=2", ["threshold=2"]),
        ("--run_dir=a --explain_limit=-1", ["--explain_limit"]),
        ("--run_dir=a --beam_args=x", ["--beam_args", "--runner=beam"]),
        ("--run_dir=a --runner=beam --beam_args=x", ["beam_args=x"]),
    ],
)
def test_wrong_flags_are_one_line(flags, words, tmp_path, monkeypatch, capsys):
    given = ["--source=x", f"--out={tmp_path / 'o.csv'}", *flags.split()]
    code, _, err = run_command(predict, given, monkeypatch, capsys)
    assert code == 2
    (line,) = err.splitlines()
    for word in words:
        assert word in line
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("damage", ["nothing", "graph", "weights", "labels"])
def test_a_damaged_export_is_one_line(damage, export_dir, image_folder, tmp_path):
    import shutil

    model = tmp_path / "model" / "3"
    model.parent.mkdir()
    if damage != "nothing":
        shutil.copytree(export_dir / "1", model)
    if damage == "graph":
        (model / "saved_model.pb").write_bytes(b"no graph")
    elif damage == "weights":
        (model / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    elif damage == "labels":
        (model / "assets" / "labels.txt").unlink()
    with pytest.raises(UserError, match=r"^--export_dir") as caught:
        run(tmp_path / "o.csv", image_folder, export_dir=str(model.parent))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["model"]


def test_no_parquet_without_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'tfpipe\[parquet\]'$"):
        run(tmp_path / "o.parquet", "x", run_dir="x")
