"""A run folder in other hands: copied in part, read-only, of an older version, elsewhere."""

import builtins
import errno
import json
import os
import pathlib
import shutil

import commands
import numpy as np
import pytest
from commands import assert_one_error
from conftest import draw

from tests.refusals import refused
from tfpipe import build_records, evaluate, export, predict, report
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.runs import loaded_run
from tfpipe.training import run_folder


@pytest.fixture
def run(run_dir, tmp_path):
    """A copy of the run that others share, not evaluated."""
    evaluated = shutil.ignore_patterns("metrics.json")
    return pathlib.Path(shutil.copytree(run_dir, tmp_path / "copied", ignore=evaluated))


def changed(run, function):
    """Change the configuration of a run."""
    path = run / "config.json"
    value = json.loads(path.read_text())
    function(value)
    path.write_text(json.dumps(value))


def as_of_version_0_1(run):
    def strip(value):
        del value["parts"], value["resolved"]["records"], value["resolved"]["depth16"]
        for name in ("limit", "minutes"):
            del value["options"][name]

    changed(run, strip)
    (run / "trained_images.npz").unlink()
    path = run / "calibration.json"
    path.write_text(path.read_text().replace("clip_min", "low").replace("clip_max", "high"))


def with_other_splits(records, image_folder, folder):
    """Build the records of the images anew, with another seed."""
    shutil.rmtree(folder, ignore_errors=True)
    options = {"seed": 7, "workers": 1, "report": False, "splits": "train:0.8,val:0.2"}
    build_records.main(build_records.Options((str(image_folder),), str(folder), **options))
    return folder


COMMANDS = {
    "evaluate": lambda run, out: evaluate.main(evaluate.Options(run_dir=str(run), rounds=100)),
    "report": lambda run, out: report.main(report.Options(run_dir=str(run), pictures=0)),
    "export": lambda run, out: export.main(
        export.Options(run_dir=str(run), export_dir=str(out / "e"), check_images=0)
    ),
    "predict": lambda run, out: predict.main(
        predict.Options(source=(str(out / "images"),), out=str(out / "p.csv"), run_dir=str(run))
    ),
}


@pytest.fixture
def out(tmp_path):
    """A folder for results, with two images to predict."""
    (tmp_path / "images").mkdir()
    for kind in ("cat", "dog"):
        draw(kind, 3).save(tmp_path / "images" / f"{kind}.jpg")
    return tmp_path


class TestParts:
    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize("name", ["calibration.json", "best.weights.h5"])
    def test_without_a_part_no_command_answers(self, run, out, command, name):
        (run / name).unlink()
        with refused(f"copied lacks {name}"):
            COMMANDS[command](run, out)
        assert not (run / "metrics.json").exists()

    def test_an_unfinished_run_is_said_to_be_uncalibrated(self, run, out, capsys):
        changed(run, lambda value: value.update(parts=[]))
        (run / "calibration.json").unlink()
        for command in ("evaluate", "predict"):
            COMMANDS[command](run, out)
            assert "no calibration.json" in capsys.readouterr().err
        with refused("calibration is missing"):
            COMMANDS["export"](run, out)

    def test_predictions_are_missed_where_they_are_needed(self, run, out, capsys):
        (run / "predictions.csv").unlink()
        COMMANDS["predict"](run, out)
        assert "lacks predictions.csv" in capsys.readouterr().err
        with refused("predictions"):
            COMMANDS["export"](run, out)
        options = {"source": (str(out / "images"),), "out": str(out / "f1.csv"), "threshold": "f1"}
        with refused("--threshold=f1.*missing"):
            predict.main(predict.Options(run_dir=str(run), **options))

    def test_a_cross_validation_and_its_folds(self, run, tmp_path):
        folder = tmp_path / "cv"
        folder.mkdir()
        (folder / "folds.json").write_text(json.dumps({"folds": ["fold-0", "fold-1"]}))
        shutil.copytree(run, folder / "fold-0")
        with refused("fold-1, which does not exist"):
            loaded_run.load(folder)
        shutil.copytree(run, folder / "fold-1")
        with refused("cv lacks calibration.json"):
            loaded_run.load(folder)

    def test_the_classes_of_a_member_may_not_change(self, run, second_run, tmp_path):
        from tfpipe import ensemble

        second = shutil.copytree(second_run, tmp_path / "second")
        ensemble.main(ensemble.Options(f"{run},{second}", str(tmp_path / "joined")))
        for folder in (run, second):
            changed(folder, lambda value: value["resolved"].update(classes=["dog", "cat"]))
        with refused("other classes"):
            loaded_run.load(tmp_path / "joined")
        (tmp_path / "joined" / "calibration.json").unlink()
        for folder in (run, second):
            changed(folder, lambda value: value["resolved"].update(classes=["cat", "dog"]))
        with refused("joined lacks calibration.json"):
            loaded_run.load(tmp_path / "joined")


class TestOtherRecords:
    @pytest.mark.slow
    def test_records_that_were_built_anew_are_noticed(
        self, run, records, image_folder, out, capsys
    ):
        there = with_other_splits(records, image_folder, out / "there")
        changed(run, lambda value: value["options"].update(records=str(there)))
        changed(run, lambda value: value["resolved"].update(records=str(there)))
        before = {each.sha256 for each in Subset(manifests.load(records), ("train",)).records()}
        now = [each.sha256 for each in Subset(manifests.load(there), ("val",)).records()]
        known = sum(digest in before for digest in now)
        assert 0 < known < len(now)
        COMMANDS["evaluate"](run, out)
        said = capsys.readouterr().err
        assert "other images or other splits" in said
        assert f"trained on {known} of these {len(now)} images" in said
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["images_trained_on"] == known
        report.main(report.Options(run_dir=str(run)))
        assert "other images or other splits" in capsys.readouterr().err
        for command in ("export", "predict"):
            COMMANDS[command](run, out)
            assert "other images or other splits" in capsys.readouterr().err

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_images_that_the_run_knows_are_counted(self, run, split, capsys):
        options = {"rounds": 100, "split": split}
        evaluate.main(evaluate.Options(run_dir=str(run), **options))
        said = capsys.readouterr().err
        metrics = json.loads((run / "metrics.json").read_text())
        known = metrics["images_trained_on"], metrics["images_validated_on"]
        assert known == ((64, 0) if split == "train" else (0, 16))
        assert ("trained on 64 of these 64" in said) == (split == "train")
        assert ("16 of these 16 images chose" in said) == (split == "val")

    def test_without_a_list_of_images_it_says_so(self, run, records, image_folder, out, capsys):
        as_of_version_0_1(run)
        there = with_other_splits(records, image_folder, out / "there")
        options = {"rounds": 100, "records": str(there)}
        evaluate.main(evaluate.Options(run_dir=str(run), **options))
        assert "no list of the images" in capsys.readouterr().err
        assert json.loads((run / "metrics.json").read_text())["images_trained_on"] is None

    def test_a_test_split_is_evaluated(self, run, image_folder, out):
        options = {"workers": 1, "report": False, "splits": "train:0.6,val:0.2,test:0.2"}
        folder = out / "three"
        build_records.main(build_records.Options((str(image_folder),), str(folder), **options))
        chosen = {"rounds": 100, "records": str(folder)}
        evaluate.main(evaluate.Options(run_dir=str(run), **chosen))
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["split"] == "test"
        assert metrics["n"] == manifests.load(folder).images("test")


class TestPlaces:
    def test_relative_records_are_found_from_anywhere(self, run, records, out, monkeypatch):
        project = out / "project"
        shutil.copytree(run, project / "runs" / "a")
        shutil.copytree(records, project / "records" / "toy")
        shutil.copytree(records, out / "elsewhere" / "records" / "toy")
        places = {"run_dir": "runs/a", "records": "records/toy"}
        changed(project / "runs" / "a", lambda value: value["options"].update(places))
        changed(project / "runs" / "a", lambda value: value["resolved"].update(records=""))
        monkeypatch.chdir(out)
        found = run_folder.load("project/runs/a").records
        assert os.path.samefile(found, project / "records" / "toy")
        # Records of the same name that are others do not count.
        other = out / "elsewhere" / "records" / "toy" / "manifest.json"
        other.write_text(other.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
        monkeypatch.chdir(out / "elsewhere")
        found = run_folder.load("../project/runs/a").records
        assert os.path.samefile(found, project / "records" / "toy")

    def test_missing_records_are_asked_for(self, run, tmp_path):
        changed(run, lambda value: value["options"].update(records="records/gone"))
        changed(run, lambda value: value["resolved"].update(records="/gone"))
        flags = [f"--run_dir={run}", "--rounds=100"]
        done = commands.run(evaluate.main, evaluate.Options, *flags, cwd=tmp_path)
        assert_one_error(done, "records/gone", "--records", str(tmp_path))


@pytest.fixture
def read_only(run, monkeypatch):
    """Make every attempt to write to the run fail as on a read-only file system."""
    real_open, real_mkdir, real_unlink = builtins.open, pathlib.Path.mkdir, pathlib.Path.unlink

    def check(path):
        if not isinstance(path, int) and pathlib.Path(os.fsdecode(path)).is_relative_to(run):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))

    def open_(path, mode="r", *args, **kwargs):
        if set(mode) & set("wax+"):
            check(path)
        return real_open(path, mode, *args, **kwargs)

    def guarded(function):
        def call(path, *args, **kwargs):
            check(path)
            return function(path, *args, **kwargs)

        return call

    monkeypatch.setattr(builtins, "open", open_)
    monkeypatch.setattr(pathlib.Path, "mkdir", guarded(real_mkdir))
    monkeypatch.setattr(pathlib.Path, "unlink", guarded(real_unlink))
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    return run


class TestReadOnly:
    def test_evaluate_shows_its_tables_and_warns(self, read_only, out, capsys):
        COMMANDS["evaluate"](read_only, out)
        shown = capsys.readouterr()
        assert "log loss" in shown.out
        assert "Read-only file system" in shown.err
        assert "--out" in shown.err
        options = {"rounds": 100, "out": str(out / "m.json")}
        evaluate.main(evaluate.Options(run_dir=str(read_only), **options))
        assert json.loads((out / "m.json").read_text())["n"] == 16

    def test_report_asks_for_a_place_at_once(self, read_only, out, capsys):
        with refused("copied is read-only: .*`out`"):
            COMMANDS["report"](read_only, out)
        options = {"pictures": 0, "out": str(out / "page.html")}
        report.main(report.Options(run_dir=str(read_only), **options))
        assert (out / "page.html").is_file()
        assert "no PNG files" in capsys.readouterr().err

    def test_an_output_that_was_asked_for_must_be_written(self, read_only):
        options = {"rounds": 100, "out": str(read_only / "m.json")}
        with refused("cannot write .*m.json"):
            evaluate.main(evaluate.Options(run_dir=str(read_only), **options))


class TestVersions:
    def test_a_run_of_version_0_1_opens(self, run, out, capsys):
        own = loaded_run.load(run).calibration()
        as_of_version_0_1(run)
        assert loaded_run.load(run).calibration() == own
        COMMANDS["evaluate"](run, out)
        assert (run / "metrics.json").is_file()

    def test_an_option_that_is_gone_is_ignored_with_a_warning(self, run, capsys):
        changed(run, lambda value: value["options"].update(lost_after_s=3))
        assert loaded_run.load(run).classes == ("cat", "dog")
        assert "no option lost_after_s=3" in capsys.readouterr().err

    def test_a_newer_version_is_refused(self, run):
        changed(run, lambda value: value.update(tfpipe_version="99.1"))
        with refused("written by tfpipe 99.1"):
            loaded_run.load(run)


def test_the_ids_are_those_of_the_images(run, records):
    saved = np.load(run / "trained_images.npz")
    manifest = manifests.load(records)
    for split in ("train", "val"):
        digests = {each.sha256 for each in Subset(manifest, (split,)).records()}
        # The first 60 bits of the digest.
        assert saved[split].tolist() == sorted(int(digest[:15], 16) for digest in digests)
