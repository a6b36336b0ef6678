import csv
import io
import json
import os
import subprocess
import sys

import grpc
import numpy as np
import pytest
from PIL import Image
from test_serving_servable import day_probability, png, publish
from test_serving_server import ROOT, running_server

from serving import images
from serving.cli import UserError
from serving.client import Client, ServerError


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    base = tmp_path_factory.mktemp("export") / "demo"
    publish(base, 1)
    with running_server(base, base.with_name("stderr")) as server:
        yield server.address


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "dark.png").write_bytes(png(10))
    (tmp_path / "light.bin").write_bytes(png(240))  # judged by its content
    for number in range(3):
        (tmp_path / f"damaged {number}.png").write_bytes(png(9)[:30])
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.bmp")
    (tmp_path / "notes.jpg").write_text("no image\n")
    return tmp_path


def ask(address, folder, *arguments):
    """Runs the client command in `folder`."""
    command = [sys.executable, "-m", "serving.client", f"--server={address}", "--model_name=demo"]
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )


def test_client_gives_plain_values(address):
    with Client(address, "demo") as client:
        outputs = client.predict({"image_bytes": [png(10), png(240)]}, ["probability"])
        assert list(outputs) == ["probability"]
        assert outputs["probability"].dtype == np.float32
        expected = [day_probability(png(10)), day_probability(png(240))]
        np.testing.assert_allclose(outputs["probability"], expected, atol=1e-6)
        assert set(client.signatures) >= {"serving_default", "add", "slow"}
        with pytest.raises(ServerError) as caught:
            client.predict({"image_bytes": [b"?"]})
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_classify_images_finds_the_culprits(address):
    good, bad = png(240), b"\x89PNG\r\n\x1a\n"
    with Client(address, "demo") as client:
        answers = client.classify_images([good, bad, good, good, bad])
        assert client.classify_images([]) == []
    assert [isinstance(answer, ServerError) for answer in answers] == [0, 1, 0, 0, 1]
    assert answers[0] == answers[2] == answers[3]
    assert (answers[0].label, answers[0].index) == ("day", 1)
    assert answers[0].confidence == answers[0].probabilities[1]
    assert answers[0].confidence == pytest.approx(day_probability(good), abs=1e-6)


def test_table(address, folder):
    done = ask(address, folder, "dark.png", "light.bin", "noise.bmp", "--batch_size=2")
    assert (done.returncode, done.stderr) == (0, "")
    heading, *rows = (line.split() for line in done.stdout.splitlines())
    assert heading == ["file", "label", "confidence", "p0", "p1"]
    for row, name in zip(rows, ["dark.png", "light.bin", "noise.bmp"], strict=True):
        day = day_probability((folder / name).read_bytes())
        label = "day" if day > 0.5 else "night"
        p0, p1 = f"{1 - day:.4f}", f"{day:.4f}"
        assert row == [name, label, max(p0, p1), p0, p1]


def test_json_and_csv_have_every_digit(address, folder):
    day = pytest.approx(day_probability(png(10)), abs=1e-6)
    night = pytest.approx(1 - day_probability(png(10)), abs=1e-6)
    (row,) = json.loads(ask(address, folder, "dark.png", "--output=json").stdout)
    assert row["probabilities"] == [night, day]
    del row["probabilities"]
    assert row == {"file": "dark.png", "label": "night", "index": 0, "confidence": night}
    (row,) = csv.DictReader(
        io.StringIO(ask(address, folder, "dark.png", "--output=csv").stdout), strict=True
    )
    assert list(row) == ["file", "label", "confidence", "p0", "p1"]
    assert float(row["p1"]) == day


def test_bad_files_are_named_and_the_good_ones_answered(address, folder):
    os.mkfifo(folder / "pipe")
    (folder / "huge.jpg").write_bytes(b"\xff\xd8\xff")
    os.truncate(folder / "huge.jpg", images.MAX_IMAGE_BYTES + 1)
    (folder / "line\nbreak").write_text("")
    names = ["dark.png", "damaged 0.png", "light.bin", "damaged 1.png", "none.jpg", "notes.jpg"]
    names += [".", "pipe", "huge.jpg", "line\nbreak"]
    done = ask(address, folder, *names, "--output=csv")
    assert done.returncode == 1
    assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == [names[0], names[2]]
    refused = f"{address} answers INVALID_ARGUMENT: Invalid PNG. "
    expected = [
        "error: cannot read none.jpg: No such file or directory",
        "error: notes.jpg is not an image: a JPEG, PNG, GIF or BMP file is expected",
        "error: cannot read .: Is a directory",
        "error: pipe is not a regular file",
        "error: huge.jpg is larger than 32 MiB",
        r"error: line\nbreak is not an image: a JPEG, PNG, GIF or BMP file is expected",
        f"error: damaged 0.png may be damaged: {refused}",
        f"error: damaged 1.png may be damaged: {refused}",
    ]
    lines = done.stderr.splitlines()
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--server=127.0.0.1:1"], ["no server answers at 127.0.0.1:1 (", "--port=1"]),
        (["--model_name=x"], ["serves no model 'x' (--model_name): Servable not found"]),
        (["--signature=x"], ["no signature 'x' that classifies images; those that do: serving_d"]),
        (["--signature=add"], ["no signature 'add' that classifies images; those that do: "]),
        (["--timeout=0.001"], ["did not answer within 0.001 s: allow more time (--timeout)"]),
    ],
)
def test_what_stops_everything_is_one_line(address, folder, flags, messages):
    done = ask(address, folder, *flags, "dark.png", "light.bin")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for message in messages:
        assert message in line


@pytest.mark.parametrize("flags", [[], ["dark.png", "--nope"], ["dark.png", "--timeout=0"]])
def test_wrong_flags_are_one_line(address, folder, flags):
    done = ask(address, folder, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")


def test_batches_are_bounded_in_number_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BATCH_BYTES", 100)
    sizes = [60, 30, 30, 99, 10, 10, 10, 10]
    paths = [str(tmp_path / f"{number}") for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        with open(path, "wb") as file:
            file.write(b"BM".ljust(size))
    batches = [[len(image) for _, image in batch] for batch in images.batches(paths, 3)]
    assert batches == [[60, 30], [30], [99], [10, 10, 10], [10]]
    with pytest.raises(UserError, match="No such file"):
        images.read_image(str(tmp_path / "none"))
