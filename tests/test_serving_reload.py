"""What is served changes only to what can be served, and no error of a disk ends that."""

import os
import shutil
import threading
import time

import grpc
import pytest
from google.protobuf import text_format
from serving_demo import (
    IMAGE,
    call,
    day_probability,
    embedded,
    predict,
    publish,
    running_server,
    spec,
)

from serving.model_manager import ModelManager
from serving.served_model import LoadRules, ServedModel
from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError, precondition
from tfpipe.protocol.loaded_model import LoadedModel

AVAILABLE, END = 30, 50
UNKNOWN, PRECONDITION = grpc.StatusCode.UNKNOWN, grpc.StatusCode.FAILED_PRECONDITION


def config(*models):
    """Configuration of (name, base path, more)."""
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}'
        for name, base, more in models
    )
    return text_format.Parse(f"model_config_list {{ {listed} }}", messages.ModelServerConfig())


class Fake:
    """Stands for a loaded version; a file `broken` in its folder is an error."""

    def __init__(self, path, version):
        if (path / "broken").exists():
            raise precondition(f"cannot load {path}")
        self.path, self.version, self.closed = path, version, False

    def close(self):
        self.closed = True

    def check_replaces(self, other):
        if (self.path / "other-signature").exists():
            raise precondition("the signature differs")


@pytest.fixture
def folders(tmp_path):
    """Two base paths with the versions 1 and 2."""
    for base in "ab":
        for version in "12":
            (tmp_path / base / version).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def models(folders):
    models = ModelManager(LoadRules(Fake))
    label = 'version_labels { key: "stable" value: 2 }'
    models.configure(config(("m", folders / "a", label), ("other", folders / "b", "")))
    return models


def served_path(models, model_spec):
    with models.acquire(model_spec) as model:
        assert not model.closed
        return str(model.path)


ALL = "model_version_policy { all {} }"


@pytest.mark.parametrize(
    ("base", "more", "code", "words"),
    [
        ("nowhere", "", UNKNOWN, "Could not find base path"),
        ("broken", "", UNKNOWN, "cannot load"),
        ("loop", "", UNKNOWN, "symbolic links"),
        ("a", "model_version_policy { specific { versions: 9 } }", UNKNOWN, "No versions of"),
        ("a", 'version_labels { key: "x" value: 9 }', PRECONDITION, "label to version 9"),
        ("b", 'version_labels { key: "x" value: 9 }', PRECONDITION, "label to version 9"),
        ("a", ALL + 'version_labels { key: "x" value: 9 }', PRECONDITION, "label to version 9"),
    ],
)
def test_a_model_that_cannot_be_served_so_stays_as_it_is(folders, models, base, more, code, words):
    (folders / "broken" / "3").mkdir(parents=True)
    (folders / "broken" / "3" / "broken").touch()
    (folders / "loop").symlink_to(folders / "loop")
    wanted = 'version_labels { key: "new" value: 2 }'
    change = config(("m", folders / base, more), ("third", folders / "b", wanted))
    with pytest.raises(RequestError, match=words) as caught:
        models.configure(change)
    assert caught.value.code is code
    for each in (spec("m"), spec("m", label="stable")):
        assert served_path(models, each) == str(folders / "a" / "2")
    # The model beside it has its label, and nothing was taken away.
    assert served_path(models, spec("third", label="new")) == str(folders / "b" / "2")
    assert models.served == {"m": [2], "other": [2], "third": [2]}
    models.refresh()
    assert models.served["m"] == [2]


def test_labels_may_change_while_the_newest_version_is_broken(folders, models):
    (folders / "a" / "3").mkdir()
    (folders / "a" / "3" / "broken").touch()
    models.configure(config(("m", folders / "a", 'version_labels { key: "x" value: 2 }')))
    assert served_path(models, spec("m", label="x")) == str(folders / "a" / "2")
    assert models.served == {"m": [2]}


def test_the_old_path_answers_until_the_new_one_is_loaded(folders):
    loading, go = threading.Event(), threading.Event()

    def load(path, version):
        if path.parent.name == "b":
            loading.set()
            assert go.wait(30)
        return Fake(path, version)

    models = ModelManager(LoadRules(load))
    models.configure(config(("m", folders / "a", "")))
    with models.acquire(spec("m")) as old:
        change = threading.Thread(
            target=models.configure, args=(config(("m", folders / "b", "")),), daemon=True
        )
        change.start()
        assert loading.wait(30)
        assert served_path(models, spec("m")) == str(folders / "a" / "2")
        go.set()
        change.join(30)
        assert served_path(models, spec("m")) == str(folders / "b" / "2")
        assert not old.closed


def test_no_request_fails_while_paths_and_labels_change(folders):
    models, done, errors = ModelManager(LoadRules(Fake)), threading.Event(), []
    changes = [
        config(
            (
                "m",
                folders / base,
                f"model_version_policy {{ specific {{ versions: {version} }} }}"
                f' version_labels {{ key: "x" value: {version} }}',
            )
        )
        for base in "ab"
        for version in (1, 2)
    ]
    models.configure(changes[0])

    def ask():
        while not done.is_set():
            try:
                for each in (spec("m"), spec("m", label="x")):
                    with models.acquire(each) as model:
                        assert model.version
            except Exception as error:
                errors.append(error)

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    for _ in range(50):
        for change in changes:
            models.configure(change)
    done.set()
    for caller in callers:
        caller.join()
    assert not errors


def test_a_reload_that_fails_is_one_line_and_its_status(tmp_path, capsys):
    base = publish(tmp_path / "demo", 1)
    with (
        embedded(base, enable_reload_config_requests=True) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        capsys.readouterr()
        request = messages.ReloadConfigRequest(config=config(("demo", tmp_path / "none", "")))
        with pytest.raises(grpc.RpcError, match="Could not find base path") as caught:
            call(channel, request)
        assert caught.value.code() is UNKNOWN
        (line,) = capsys.readouterr().err.splitlines()
        assert "ReloadConfig failed" in line
        assert str(tmp_path / "none") in line or "{demo}" in line
        assert call(channel, predict(spec(), image_bytes=[IMAGE])).outputs
        request = messages.ReloadConfigRequest(config=config(("demo", base, "")))
        request.metric_names.append("/x")
        response = call(channel, request)
        assert response.HasField("status")
        assert response.status.error_code == 0
        assert [(each.name, each.int64_value_increase) for each in response.metric] == [("/x", 0)]


def test_clients_choose_what_is_served_only_where_a_flag_allows_it(tmp_path):
    base = publish(tmp_path / "demo", 1)
    with embedded(base) as server, grpc.insecure_channel(server.address) as channel:
        request = messages.ReloadConfigRequest(config=config(("demo", base, "")))
        with pytest.raises(grpc.RpcError, match="--enable_reload_config_requests") as caught:
            call(channel, request)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(("failures", "tries", "served"), [(2, 3, [1, 2]), (9, 4, [1])])
def test_a_version_that_failed_is_tried_again(folders, failures, tries, served):
    tried = []

    def load(path, version):
        if version == 2:
            tried.append(version)
            if len(tried) <= failures:
                raise OSError("the disk is away")
        return Fake(path, version)

    model = ServedModel("m", folders / "a", LoadRules(load, max_retries=3, retry_interval_s=0))
    policy = text_format.Parse("all {}", messages.ServableVersionPolicy())
    first = model.prepare(policy)
    model.commit(first)
    errors = [*first.errors.values(), *(error for _ in range(9) for error in model.refresh())]
    assert [error.message for error in errors] == ["the disk is away"]  # said once
    assert len(tried) == tries
    assert model.versions == served
    if served == [1]:
        (folders / "a" / "2" / "changed").touch()
        model.refresh()
        assert len(tried) == tries + 1


def test_a_retry_waits_for_its_time(folders):
    tried = []

    def load(path, version):
        tried.append(version)
        raise OSError("the disk is away")

    model = ServedModel("m", folders / "a", LoadRules(load, retry_interval_s=3600))
    for _ in range(5):
        model.refresh()
    assert tried == [2]


def test_what_was_removed_is_unloaded(folders, models, capsys):
    with models.acquire(spec("m")) as kept:
        for version in "12":
            (folders / "a" / version).rmdir()
        models.refresh()
        assert models.served == {"m": [], "other": [2]}
        assert not kept.closed  # a request uses it
    assert "all versions were removed" in capsys.readouterr().err
    (folders / "a" / "3").mkdir()
    models.refresh()
    assert models.served["m"] == [3]


def test_a_base_path_that_is_gone_changes_nothing(folders, models):
    """As in TensorFlow Serving: it may be a volume that is mounted again."""
    (folders / "a").rename(folders / "away")
    models.refresh()
    assert models.served["m"] == [2]
    (folders / "away").rename(folders / "a")
    (folders / "a" / "3").mkdir()
    models.refresh()
    assert models.served["m"] == [3]


@pytest.mark.parametrize("refuse", [True, False])
def test_a_changed_signature_waits_until_the_old_version_is_withdrawn(folders, refuse):
    models = ModelManager(LoadRules(Fake, refuse_signature_changes=refuse))
    models.configure(config(("m", folders / "a", "")))
    (folders / "a" / "3").mkdir()
    (folders / "a" / "3" / "other-signature").touch()
    models.refresh()
    assert models.served["m"] == ([2] if refuse else [3])
    (folders / "a" / "2").rmdir()
    models.refresh()
    assert models.served["m"] == [3]


def wait_for(condition):
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_process_survives_a_disk_that_fails(tmp_path):
    """A loop of links fails as a stale network drive does: with an OSError for each access."""
    base, log = publish(tmp_path / "demo", 1), tmp_path / "stderr"
    file = tmp_path / "models.config"
    file.write_text(text_format.MessageToString(config(("demo", base, ""))))
    flags = [f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1"]
    with (
        running_server("", log, "--file_system_poll_wait_seconds=0.1", *flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        text = lambda: log.read_text()  # noqa: E731
        for path in (base, file):
            path.rename(tmp_path / "away")
            path.symlink_to(path)
            wait_for(lambda path=path: f"{path}: Too many levels of symbolic links" in text())
            time.sleep(0.5)
            assert call(channel, predict(spec(), image_bytes=[IMAGE])).outputs
            path.unlink()
            (tmp_path / "away").rename(path)
        assert text().count("symbolic links") == 2
        publish(base, 2, 3.0)
        wait_for(lambda: "serving demo version 2" in text())
        more = config(("demo", base, ""), ("pets", base, ""))
        file.write_text(text_format.MessageToString(more))
        wait_for(lambda: "reloaded" in text())
        response = call(channel, predict(spec("pets"), image_bytes=[IMAGE]))
        (found,) = response.outputs["probability"].float_val
        assert found == pytest.approx(day_probability(IMAGE, 3.0), abs=1e-6)
        for version in "12":
            shutil.rmtree(base / version)
        wait_for(lambda: text().count("all versions were removed") == 2)
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, predict(spec(), image_bytes=[IMAGE]))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.slow
@pytest.mark.parametrize(("wait_us", "again"), [(60_000_000, False), (0, True)])
def test_a_refused_file_is_tried_again_after_the_interval(tmp_path, capsys, wait_us, again):
    base, file = publish(tmp_path / "demo", 1), tmp_path / "models.config"
    write = lambda *models: file.write_text(text_format.MessageToString(config(*models)))  # noqa: E731
    write(("demo", base, ""))
    options = {"model_config_file": str(file), "model_config_file_poll_wait_seconds": 1}
    with embedded(None, **options, load_retry_interval_micros=wait_us) as server:
        tried, configure = [], server.models.configure

        def counted(*arguments, **settings):
            tried.append(arguments)
            configure(*arguments, **settings)

        server.models.configure = counted
        write(("demo", tmp_path / "none", ""))
        wait_for(lambda: tried)
        time.sleep(2.5)  # two more reads
        assert (len(tried) > 1) is again
        assert server.models.served == {"demo": [1]}
        write(("demo", base, ""), ("pets", base, ""))  # a change is tried at once
        wait_for(lambda: "pets" in server.models.served)
    assert capsys.readouterr().err.count("Could not find base path") == 1


def test_a_damaged_version_is_loaded_once_it_can_be_read(tmp_path):
    base = publish(tmp_path / "demo", 1)
    rules = LoadRules(LoadedModel, retry_interval_s=0)
    model = ServedModel("demo", base, rules)
    assert model.refresh() == []
    publish(base, 2)
    graph, away = base / "2" / "saved_model.pb", tmp_path / "away"
    os.rename(graph, away)
    (error,) = model.refresh()
    assert "cannot load" in error.message
    os.rename(away, graph)
    assert model.refresh() == []
    assert model.versions == [2]
    assert {each.version: each.state for each in model.statuses()} == {1: END, 2: AVAILABLE}
