"""The commands of the tutorial run and print the shown output."""

import re
import shutil

import pytest
from conftest import ROOT

from tfpipe.core.errors import UserError
from tools import make_toy_images, run_tutorial
from tools.run_tutorial import Options, TutorialStep

PATH = ROOT / "docs" / "tutorial.md"

PAGE = """
```sh
exit 1
```

```console
$ echo "one  17.5 images/s" && echo two && echo three
one 3 images/s
...
three
$ cat \\
    train.zip
images
```

Text.

```console
$ python -c "import time; print('serving at 127.0.0.1:8500', flush=True); time.sleep(600)" &
serving at 127.0.0.1:8500
$ echo 127.0.0.1:8500 --port=8501
127.0.0.1:8500 --port=...
```
"""


@pytest.fixture
def options(tmp_path):
    """Return a function that makes the options for a page."""
    for name in ("train", "test", "weights"):
        (tmp_path / name).write_text("images\n")

    def make(page, **changes):
        (tmp_path / "page.md").write_text(page)
        paths = {name: str(tmp_path / name) for name in ("train", "test", "weights")}
        base = {**paths, "tutorial": str(tmp_path / "page.md"), "out": str(tmp_path / "out")}
        return Options(**{**base, **changes})

    return make


def test_steps_are_commands_with_their_output():
    found = run_tutorial.steps(PAGE)
    assert found[1] == TutorialStep("cat train.zip", ("images",))
    assert found[3] == TutorialStep(
        "echo 127.0.0.1:8500 --port=8501", ("127.0.0.1:8500 --port=...",)
    )
    assert [step.stays for step in found] == [False, False, True, False]


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        (("a 1.5", "b"), "x\na 2\nb\n", ""),
        (("b", "a"), "a\nb\n", "a"),
        (("a", "a"), "a\n", "a"),
        (("a  ─── 1,287", ""), " a ─ 3 \n\n", ""),
        (("...", "loss 1e-07 ... x"), "loss 2 and 3 x\n", ""),
        (("val ... loss 0.5",), "val loss 0.5\n", "val ... loss 0.5"),
        (("all.",), "allx\n", "all."),
    ],
)
def test_missing_lines_are_found(shown, printed, missing):
    assert run_tutorial.missing(shown, printed) == missing


def test_commands_run_in_order_beside_running_ones(options, tmp_path):
    run_tutorial.main(options(PAGE))
    logs = sorted((tmp_path / "out" / "output").iterdir())
    said = [path.read_text() for path in logs]
    assert said[1] == "images\n"
    port = re.search(r":(\d+)", said[2])[1]  # a free one, the same for each command
    assert port != "8500"
    assert said[3].split()[0] == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("page", "changes", "message"),
    [
        ("```console\n$ false\n```\n", {}, "'false' ended with status 1"),
        ("```console\n$ echo a\nb\n```\n", {}, "shown line 'b'"),
        ("```console\n$ echo a &\nb\n```\n", {}, "did not print all shown lines: a"),
        (PAGE, {"out": "."}, "File exists: name a new folder"),
        (PAGE, {"train": "nothing"}, r"for train\.zip, does not exist"),
    ],
)
def test_what_goes_wrong_is_one_line(options, page, changes, message):
    with pytest.raises(UserError, match=message) as error:
        run_tutorial.main(options(page, **changes))
    assert "\n" not in str(error.value)


def test_the_tutorial_uses_every_command_from_images_to_a_server():
    text = "\n".join(step.command for step in run_tutorial.steps(PATH.read_text(encoding="utf-8")))
    names = "build verify train evaluate report predict export serve client webapp loadtest"
    for name in names.split():
        assert f"tfpipe {name} " in text


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_the_tutorial_is_true(shared, tmp_path):
    data = shared / "data" / "dogs-vs-cats"
    given = {"train": data / "train.zip", "test": data / "test1.zip", "out": tmp_path / "out"}
    given["weights"] = shared / "weights" / "mobilenet_1_0_224_tf_no_top.h5"
    run_tutorial.main(Options(**{name: str(path) for name, path in given.items()}))


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_the_tutorial_runs_on_toy_images(tmp_path):
    """Without the real data, only the exit status of the commands counts."""
    import tf_keras

    images = tmp_path / "images"
    make_toy_images.main(make_toy_images.Options(out=str(images), count=120))
    for name in ("train", "test1"):
        shutil.make_archive(str(tmp_path / name), "zip", images, name)
    model = tf_keras.applications.MobileNet(weights=None, include_top=False)
    model.save_weights(str(tmp_path / "mobilenet.h5"))
    given = {"train": "train.zip", "test": "test1.zip", "weights": "mobilenet.h5", "out": "out"}
    paths = {name: str(tmp_path / path) for name, path in given.items()}
    run_tutorial.main(Options(**paths, compare=False))
    assert (tmp_path / "out" / "export" / "pets" / "1" / "saved_model.pb").exists()
