"""The client and its command, on a server in this process."""

import csv
import io
import json
import os
import socket
import sys
import threading

import grpc
import numpy as np
import pytest
from PIL import Image
from serving_demo import day_probability, demo, embedded, png, run_command, save_classifier

from serving import client as command
from tfpipe.core.errors import UserError
from tfpipe.protocol import images, transport
from tfpipe.protocol.client import Client
from tfpipe.protocol.transport import ServerError


@pytest.fixture(scope="module")
def address():
    return demo().address


@pytest.fixture(scope="module")
def quarters(tmp_path_factory):
    """A server of a model of four classes."""
    base = tmp_path_factory.mktemp("quarters") / "demo"
    save_classifier(base, 1, ["a", "b", "c", "d"], 2)
    with embedded(base, rest_api_port=-1) as server:
        yield server


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


@pytest.fixture
def ask(address, tmp_path, monkeypatch, capsys):
    """Runs the command in `tmp_path`; returns its exit status, output and messages."""
    monkeypatch.chdir(tmp_path)

    def ask(*arguments, server=address):
        given = [f"--server={server}", "--model_name=demo", *arguments]
        return run_command(command, given, monkeypatch, capsys)

    return ask


def test_client_gives_plain_values(address):
    with Client(address, "demo") as client:
        outputs = client.predict({"image_bytes": [png(10), png(240)]}, ["probability"])
        assert list(outputs) == ["probability"]
        assert outputs["probability"].dtype == np.float32
        expected = [day_probability(png(10)), day_probability(png(240))]
        np.testing.assert_allclose(outputs["probability"], expected, atol=1e-6)
        found = client.metadata()
        assert found.version == 7
        assert found.signatures.keys() == client.signatures.keys() >= {"serving_default", "add"}


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


def test_the_forms_of_the_output(ask, folder):
    names = ["dark.png", "light.bin", "noise.bmp"]
    days = [day_probability((folder / name).read_bytes()) for name in names]
    code, out, err = ask(*names, "--batch_size=2")
    assert (code, err) == (0, "")
    heading, *lines = (line.split() for line in out.splitlines())
    assert heading == ["file", "label", "confidence", "p0", "p1"]  # this model tells no names
    for line, name, day in zip(lines, names, days, strict=True):
        p0, p1 = f"{1 - day:.4f}", f"{day:.4f}"
        assert line == [name, "day" if day > 0.5 else "night", max(p0, p1), p0, p1]
    objects = json.loads(ask(*names, "--output=json")[1])
    rows = list(csv.DictReader(io.StringIO(ask(*names, "--output=csv")[1]), strict=True))
    assert list(rows[0]) == heading
    for row, each, name, day in zip(rows, objects, names, days, strict=True):
        assert row["file"] == each["file"] == name
        assert row["label"] == each["label"] == ("day" if day > 0.5 else "night")
        assert each["probabilities"] == pytest.approx([1 - day, day], abs=1e-6)
        assert each["confidence"] == each["probabilities"][each["index"]]
        assert float(row["p1"]) == pytest.approx(day, abs=1e-6)


def test_bad_files_are_named_and_the_good_ones_answered(ask, folder):
    os.mkfifo(folder / "pipe")
    (folder / "huge.jpg").write_bytes(b"\xff\xd8\xff")
    os.truncate(folder / "huge.jpg", images.MAX_IMAGE_BYTES + 1)
    (folder / "line\nbreak").write_text("")
    names = ["dark.png", "damaged 0.png", "light.bin", "damaged 1.png", "none.jpg", "notes.jpg"]
    (folder / "empty").mkdir()
    names += ["empty", "pipe", "huge.jpg", "line\nbreak"]
    code, out, err = ask(*names, "--output=csv")
    assert code == 1
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == [names[0], names[2]]
    expected = [
        ("empty", "without files"),
        ("none.jpg", "No such file"),
        ("notes.jpg", "not an image"),
        ("pipe", "not a regular file"),
        ("huge.jpg", "32 MiB"),
        (r"line\nbreak", "not an image"),
        ("damaged 0.png", "INVALID_ARGUMENT: Invalid PNG"),
        ("damaged 1.png", "INVALID_ARGUMENT: Invalid PNG"),
    ]
    for line, words in zip(err.splitlines(), expected, strict=True):
        assert line.startswith("error: ")
        assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--server=127.0.0.1:1", "--retries=1"], 1, "no server answers at 127.0.0.1:1 ("),
        (["--model_name=x"], 1, "serves no model 'x': Servable not found"),
        (["--signature_name=x"], 1, "no signature 'x' that classifies images; those that do: serv"),
        (["--signature_name=add"], 1, "no signature 'add' that classifies images"),
        (["--nope"], 2, "nope"),
        (["--timeout=0"], 2, "--timeout=0"),
        (["--timeout=nan"], 2, "--timeout=nan"),
        (["--server=http://127.0.0.1:x"], 1, "HOST:PORT"),
        (["--server=127.0.0.1"], 1, "HOST:PORT"),
        (["--metadata=x"], 2, "--metadata=x is not KEY=VALUE"),
        (["--token_file=nowhere"], 1, "cannot read nowhere: No such file"),
        (["--compression=zip"], 2, "--compression"),
        (["--version=1", "--version_label=a"], 1, "--version=1 and --version_label=a are both"),
    ],
)
def test_what_stops_everything_is_one_line(ask, folder, flags, code, words):
    found, out, err = ask(*flags, "dark.png", "light.bin")
    assert (found, out) == (code, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("http://{grpc}", "speaks gRPC, not HTTP: give the address without http://"),
        ("{rest}", "speaks HTTP, not gRPC: for REST put http:// before the address"),
        ("http://{rest}/v1/models/demo:predict", "has the path of a model: give http://{rest};"),
    ],
)
def test_the_port_of_the_other_protocol_is_recognised(ask, folder, form, words):
    names = {"grpc": demo().address, "rest": demo().rest_address}
    code, out, err = ask("dark.png", server=form.format(**names))
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.isprintable()
    assert words.format(**names) in line


def test_another_protocol_is_shown_in_printable_characters(ask, folder):
    def answer(listening):
        connection, _ = listening.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"\x15\x03\x01\x1b[31m\xff\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=[listening], daemon=True).start()
        code, out, err = ask("dark.png", server=f"http://127.0.0.1:{listening.getsockname()[1]}")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.isprintable()
    assert "does not speak HTTP" in line


@pytest.mark.parametrize("form", ["{grpc}", "http://{rest}"])
def test_a_threshold_is_for_two_classes(quarters, tmp_path, monkeypatch, capsys, form):
    server = form.format(grpc=quarters.address, rest=quarters.rest_address)
    with Client(server, "demo") as client:
        assert client.classify_images([b"x"])[0].label == "c"
        with pytest.raises(UserError, match=r"`threshold=0.5` is for two classes.* 'demo' has 4"):
            client.classify_images([b"x"], threshold=0.5)
    (tmp_path / "a.png").write_bytes(png(9))
    given = [f"--server={server}", "--model_name=demo", str(tmp_path), "--threshold=0.5"]
    code, out, err = run_command(command, given, monkeypatch, capsys)
    assert (code, out) == (1, "")
    assert "--threshold=0.5 is for two classes, and the model 'demo' has 4" in err


def test_a_silent_server_is_one_line(ask, folder):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"--server=127.0.0.1:{silent.getsockname()[1]}"
        code, out, err = ask(server, "--timeout=0.2", "--retries=0", "dark.png")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert "did not answer within 0.2 s: allow more time (--timeout)" in line


def test_batches_are_bounded_in_number_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BATCH_BYTES", 100)
    sizes = [60, 30, 30, 99, 10, 10, 10, 10]
    paths = [str(tmp_path / f"{number}") for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        with open(path, "wb") as file:
            file.write(b"BM".ljust(size))
    found = images.batches(images.find(paths), 3)
    batches = [[len(image.data) for image in batch] for batch in found]
    assert batches == [[60, 30], [30], [99], [10, 10, 10], [10]]


def test_folders_are_searched_in_the_order_of_names(ask, folder):
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("b.png", "a.png", "er/c.png", ".hidden.png"):
        (folder / "deep" / name).write_bytes(png(240))
    code, out, err = ask("deep", "dark.png", "--output=csv", "--batch_size=1")
    assert (code, err) == (0, "")
    names = [line.split(",")[0] for line in out.splitlines()[1:]]
    assert names == ["deep/a.png", "deep/b.png", "deep/er/c.png", "dark.png"]


def test_standard_input_is_one_image(ask, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(png(240))))
    (row,) = json.loads(ask("-", "--output=json")[1])
    assert (row["file"], row["label"]) == ("-", "day")


def test_records_are_read(ask, records, tmp_path, capsys):
    (shard, *_) = sorted(records.glob("train-*"))
    copied = tmp_path / "train.tfrecord"
    copied.write_bytes(shard.read_bytes())
    found = images.find([str(copied)])
    names = [image.name for image in found.images()]
    assert found.count is None
    assert found.seen == len(names) > 10
    assert all(name.startswith(f"{copied}:") and name.endswith(".jpg") for name in names)
    _, out, _ = ask("train.tfrecord", "--output=json", "--batch_size=7")
    assert len(json.loads(out)) == len(names)
    copied.write_bytes(shard.read_bytes()[:-100])
    cut = images.find([str(copied)])
    assert len(list(cut.images())) == len(names) - 1
    assert cut.missing == 1
    assert "no TFRecord file of images, or damaged, at record" in capsys.readouterr().err


@pytest.mark.parametrize("concurrency", [1, 5])
def test_answers_come_in_order_whatever_the_concurrency(ask, folder, concurrency):
    greys = list(range(0, 250, 9))
    for grey in greys:
        (folder / f"grey{grey:03}.png").write_bytes(png(grey))
    names = [f"grey{grey:03}.png" for grey in greys]
    flags = [f"--concurrency={concurrency}", "--batch_size=2", "--output=csv"]
    rows = list(csv.DictReader(io.StringIO(ask(*names, *flags)[1])))
    assert [row["file"] for row in rows] == names
    for row, grey in zip(rows, greys, strict=True):
        assert float(row["p1"]) == pytest.approx(day_probability(png(grey)), abs=1e-5)


class TestExported:
    """With a model of tfpipe's, which tells the errors of each image."""

    @pytest.fixture(scope="class")
    def server(self, export_dir):
        with embedded(export_dir) as server:
            yield server.address

    def test_a_damaged_image_costs_one_line(self, server, ask, image_folder, tmp_path):
        good = sorted(image_folder.iterdir())[0].read_bytes()
        (tmp_path / "good.jpg").write_bytes(good)
        (tmp_path / "bad.jpg").write_bytes(good[:500])
        code, out, err = ask("bad.jpg", "good.jpg", "--output=csv", server=server)
        assert code == 1
        heading, answer = out.splitlines()
        assert heading == "file,label,confidence,probability_cat,probability_dog"
        assert answer.startswith("good.jpg,")
        assert err == f"error: bad.jpg may be damaged: {server} answers: damaged\n"

    def test_a_threshold_moves_the_label(self, server, image_folder):
        data = [path.read_bytes() for path in sorted(image_folder.iterdir())[::20]]
        with Client(server, "demo") as client:
            assert client.labels == ("cat", "dog")
            plain = client.classify_images(data)
            for threshold in (0.0, 0.5, 1.0):
                moved = client.classify_images(data, threshold=threshold)
                for before, after in zip(plain, moved, strict=True):
                    index = int(before.probabilities[1] >= threshold)
                    assert (after.index, after.label) == (index, ("cat", "dog")[index])
                    assert after.confidence == before.probabilities[index]


def test_only_unavailable_servers_are_asked_again(monkeypatch):
    waits, calls = [], []
    monkeypatch.setattr(transport.time, "sleep", waits.append)

    def answer(failures, code=grpc.StatusCode.UNAVAILABLE):
        async def call():
            calls.append(1)
            if len(calls) <= failures:
                raise ServerError(code, "no")
            return "yes"

        calls.clear()
        return call

    def repeated(call, retries):
        return transport.finish(transport.repeated(call, retries, transport.pause))

    assert repeated(answer(3), 4) == "yes"
    assert len(calls) == 4
    for wait, longest in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert longest / 2 <= wait <= longest
    with pytest.raises(ServerError):
        repeated(answer(3), 2)
    assert len(calls) == 3
    with pytest.raises(ServerError):
        repeated(answer(1, grpc.StatusCode.RESOURCE_EXHAUSTED), 4)
    assert len(calls) == 1
