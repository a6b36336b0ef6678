"""The command `tfpipe`: its overview, its commands, completion, recipes and the pipeline."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import tfpipe
from tfpipe import commands
from tfpipe.core import completion, recipes

ROOT = pathlib.Path(__file__).parent.parent


def call(*arguments, timeout=60):
    command = [sys.executable, "-m", "tfpipe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def test_the_overview_has_every_command_on_one_line():
    lines = call("--help").stdout.splitlines()
    for name in commands.MODULES:
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1


def test_the_versions_are_told():
    assert f"tfpipe {tfpipe.__version__}, tensorflow 2." in call("--version").stdout


def test_an_unknown_command_is_one_line():
    done = call("trian")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "'train'" in done.stderr


def test_a_command_takes_its_flags():
    done = call("verify", "--records=nowhere")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


COMPLETE = """
source /dev/stdin
COMP_WORDS=({words}) COMP_CWORD={last}
_tfpipe
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "wanted", "unwanted"),
    [
        (["tfpipe", "ex"], "export", "train"),
        (["tfpipe", "train", "--back"], "--backbones=", "--source="),
        (["tfpipe", "train", "--precision", "=", "mixed_b"], "mixed_bfloat16", "float32"),
        (["tfpipe", "build", "--report", "="], "true", "--report"),
    ],
)
def test_bash_completes(words, wanted, unwanted):
    script = completion.script("bash", commands.MODULES)
    code = COMPLETE.format(words=" ".join(words), last=len(words) - 1)
    done = subprocess.run(
        ["bash", "-c", code], input=script, capture_output=True, text=True, timeout=20
    )
    assert wanted in done.stdout.split()
    assert unwanted not in done.stdout.split()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_parse(shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = completion.script(shell, commands.MODULES)
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


def test_every_flagfile_is_a_recipe():
    assert {path.name for path in recipes.RECIPES.values()} == {
        path.name for path in (ROOT / "configs").glob("*.flags")
    }


@pytest.mark.parametrize(
    "recipe", [("--recipe=mobilenet_frozen",), ("--recipe", "mobilenet_frozen")]
)
def test_an_unknown_recipe_names_the_nearest(tmp_path, recipe):
    done = call("train", *recipe, "--records=r", f"--run_dir={tmp_path}")
    assert done.returncode == 2
    assert "mobilenet-frozen" in done.stderr


def test_the_list_of_recipes_says_what_each_is():
    listed = call("train", "--recipe=list").stdout
    assert "mobilenet-frozen" in listed
    assert "frozen MobileNet" in listed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_pipeline_ends_with_an_export_and_is_not_repeated(image_folder, tmp_path):
    out = tmp_path / "pets"
    arguments = [str(image_folder), f"--out={out}", "--recipe=demo", "--build_flags=--noreport"]
    command = ["pipeline", *arguments, "--train_flags=--epochs=1 --image_size=32"]
    first = call(*command, timeout=290)
    assert first.returncode == 0, first.stderr
    assert "tfpipe serve --model_name=pets" in first.stdout
    assert (out / "run/report.html").exists()
    assert [path.name for path in (out / "export").iterdir() if path.name.isdigit()] == ["1"]
    weights = sorted((path.name, path.stat().st_mtime_ns) for path in (out / "run").glob("*.h5"))
    assert call(*command, timeout=290).returncode == 0
    assert [path.name for path in (out / "export").iterdir() if path.name.isdigit()] == ["1"]
    assert weights == sorted(
        (path.name, path.stat().st_mtime_ns) for path in (out / "run").glob("*.h5")
    )


def test_a_step_that_fails_ends_the_pipeline(tmp_path):
    done = call("pipeline", str(tmp_path / "nothing"), f"--out={tmp_path / 'out'}")
    assert done.returncode != 0
    assert "nothing" in done.stderr
    assert "tfpipe train" not in done.stdout + done.stderr
    assert not (tmp_path / "out" / "run").exists()


@pytest.mark.slow
def test_a_wheel_holds_what_the_commands_need(tmp_path):
    """Unpacked away from the repository, it lists its commands and recipes and finds its pages."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "runs", "export", "dist", "build", "*.egg-info")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    subprocess.run([*build, "-w", str(tmp_path), str(copy)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    files = {
        path.relative_to(ROOT)
        for package in ("tfpipe", "serving")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix in (".j2", ".json", ".css", ".js", ".svg", ".jpg")
    }
    assert [path for path in files if not (unpacked / path).is_file()] == []
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-m", "tfpipe", "train", "--recipe=list"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert "mobilenet-frozen" in done.stdout
