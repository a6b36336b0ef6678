"""Several models, versions by policy and by label, and configurations that change."""

import gc
import os
import shutil
import time
import weakref

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from serving_demo import IMAGE, call, day_probability, embedded, predict, publish, spec, status

from serving.batching import Batcher, BatchingParameters
from serving.model_manager import ModelManager
from serving.served_model import LoadRules, ServedModel, aspired
from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError
from tfpipe.protocol.loaded_model import LoadedModel

BIASES = {1: 0.0, 2: 3.0, 3: -3.0}
UNKNOWN, PRECONDITION = grpc.StatusCode.UNKNOWN, grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture
def base(tmp_path):
    for version, bias in BIASES.items():
        publish(tmp_path / "demo", version, bias, signatures=("classify",))
    return tmp_path / "demo"


def config(*models):
    """Configuration of (name, base path, more)."""
    listed = "".join(
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}'
        for name, base, more in models
    )
    return text_format.Parse(f"model_config_list {{ {listed} }}", messages.ModelServerConfig())


def probability(models, model_spec):
    with models.acquire(model_spec) as model:
        image = np.array([IMAGE], object)
        return model.run("", {"image_bytes": image}, ["probability"])["probability"][0]


def close_to(version):
    return pytest.approx(day_probability(IMAGE, BIASES[version]), abs=1e-6)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [9]),
        ("latest {}", [9]),
        ("latest { num_versions: 2 }", [9, 5]),
        ("latest { num_versions: 9 }", [9, 5, 2]),
        ("all {}", [9, 5, 2]),
        ("specific { versions: 2 versions: 9 versions: 4 }", [9, 2]),
        ("specific {}", []),
    ],
)
def test_policies_choose_versions(policy, expected):
    parsed = text_format.Parse(policy, messages.ServableVersionPolicy())
    assert aspired(parsed, [5, 2, 9]) == expected
    assert aspired(parsed, []) == []


def test_versions_and_labels_of_several_models(base):
    models = ModelManager(LoadRules(LoadedModel))
    more = (
        "model_version_policy { specific { versions: 1 versions: 2 } }"
        ' version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'
    )
    models.configure(config(("demo", base, more), ("other", base, "")))
    assert models.served == {"demo": [1, 2], "other": [3]}
    assert probability(models, spec()) == close_to(2)
    assert probability(models, spec(number=1)) == close_to(1)
    assert probability(models, spec(label="stable")) == close_to(1)
    assert probability(models, spec(label="canary")) == close_to(2)
    assert probability(models, spec("other")) == close_to(3)
    with pytest.raises(RequestError, match="Unrecognized servable version label: stable"):
        probability(models, spec("other", label="stable"))
    models.configure(config(("demo", base, "model_version_policy { all {} }")))
    assert models.served == {"demo": [1, 2, 3]}
    with pytest.raises(RequestError, match="Unrecognized servable version label"):
        probability(models, spec(label="stable"))
    with pytest.raises(RequestError, match=r"Servable not found for request: Latest\(other\)"):
        probability(models, spec("other"))
    models.unload()
    assert models.served == {"demo": []}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (config(("a", "/a", ""), ("a", "/b", "")), None, "Illegal to list model a multiple times"),
        (config(("", "/a", "")), None, "Every model needs a name and a base_path"),
        (
            config(("a", "/nowhere", "")),
            UNKNOWN,
            "Could not find base path /nowhere for servable a",
        ),
    ],
)
def test_a_wrong_configuration_is_refused(change, code, message):
    with pytest.raises(RequestError, match=message) as caught:
        ModelManager(LoadRules(LoadedModel)).configure(change)
    assert caught.value.code is (code or grpc.StatusCode.INVALID_ARGUMENT)


def test_a_label_needs_a_version_that_is_served(base):
    models = ModelManager(LoadRules(LoadedModel))
    models.configure(config(("demo", base, 'version_labels { key: "a" value: 3 }')))
    wanted = config(("demo", base, 'version_labels { key: "a" value: 2 }'))
    with pytest.raises(RequestError) as caught:
        models.configure(wanted)
    assert caught.value.code is PRECONDITION
    assert caught.value.message == (
        "Request to assign label to version 2 of model demo, which is not currently available for"
        " inference"
    )
    assert probability(models, spec(label="a")) == close_to(3)
    with pytest.raises(RequestError, match="label to version 2"):
        models.configure(wanted, labels_may_wait=True)  # it would move from a version to none
    new = config(("demo", base, 'version_labels { key: "b" value: 2 }'))
    models.configure(new, labels_may_wait=True)
    with pytest.raises(RequestError, match=r"Specific\(demo, 2\)"):
        probability(models, spec(label="b"))
    models.configure(new, labels_may_wait=True)  # and once more


def test_a_newest_version_that_is_broken_is_an_error(base):
    (base / "3" / "saved_model.pb").write_bytes(b"")
    models = ModelManager(LoadRules(LoadedModel))
    with pytest.raises(RequestError) as caught:
        models.configure(config(("demo", base, "")))
    assert caught.value.code is UNKNOWN
    assert caught.value.message.startswith(
        "1 servable(s) did not become available: {{name: demo version: 3} due to error:"
        f" FAILED_PRECONDITION: cannot load {base / '3'}: "
    )
    assert models.served == {}
    models.configure(config(("demo", base, "model_version_policy { all {} }")))
    assert models.served == {"demo": [1, 2]}


def test_a_version_in_use_is_unloaded_after_its_last_call(base):
    model = ServedModel("demo", base, LoadRules(LoadedModel))
    assert model.refresh() == []
    shutil.rmtree(base / "3")
    with model.acquire() as used, model.acquire(3):
        assert model.refresh() == []
        assert model.versions == [2]
        states = {each.version: each.state for each in model.statuses()}
        assert states == {2: 30, 3: 40}  # unloading
        assert used.run("", {"image_bytes": np.array([IMAGE], object)})
        with pytest.raises(RequestError, match=r"Specific\(demo, 3\)"), model.acquire(3):
            pass
    deadline = time.monotonic() + 30  # it is closed on another thread
    while states[3] != 50 and time.monotonic() < deadline:
        time.sleep(0.01)
        states = {each.version: each.state for each in model.statuses()}
    assert states == {2: 30, 3: 50}
    with pytest.raises(RequestError):
        used.run("", {"image_bytes": np.array([IMAGE], object)})


def test_memory_of_old_versions_is_freed(base):
    """Swaps leave no thread behind, and no function of an old version."""
    wrap = lambda function: Batcher(function, BatchingParameters())  # noqa: E731
    models = ModelManager(LoadRules(lambda path, version: LoadedModel(path, version, wrap)))
    alive = []
    for turn in range(5):
        policy = f"model_version_policy {{ specific {{ versions: {turn % 3 + 1} }} }}"
        models.configure(config(("demo", base, policy)))
        assert probability(models, spec()) == close_to(turn % 3 + 1)
        with models.acquire(spec()) as model:
            alive.append(weakref.ref(model._model))
        count = len(os.listdir("/proc/self/task"))
        if turn == 1:
            first = count
    assert count <= first + 1
    models.unload()
    del model
    gc.collect()
    assert not [each for each in alive if each()]


def test_reload_over_grpc(base, capsys):
    with (
        embedded(base, enable_reload_config_requests=True) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        for version in (1, 2, 3, 1):
            policy = f"model_version_policy {{ specific {{ versions: {version} }} }}"
            request = messages.ReloadConfigRequest(
                config=config(("demo", base, policy), ("second", base, ""))
            )
            assert call(channel, request).status.error_code == 0
            response = call(channel, predict(spec(), image_bytes=[IMAGE]))
            assert response.model_spec.version.value == version
            assert call(channel, status(spec("second"))).model_version_status[0].version == 3
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, messages.ReloadConfigRequest(config=config(("x", "/nowhere", ""))))
        assert caught.value.code() is UNKNOWN
    assert "reloaded: serving demo version 1; second version 3" in capsys.readouterr().err


def test_a_configuration_file_is_read_again(base, tmp_path, capsys):
    file, said = tmp_path / "models.config", ""
    write = lambda *models: file.write_text(text_format.MessageToString(config(*models)))  # noqa: E731

    def wait_for(words):
        nonlocal said
        for _ in range(400):
            said += capsys.readouterr().err
            if words in said:
                return
            time.sleep(0.05)
        pytest.fail(said)

    write(("demo", base, ""))
    options = {"model_config_file": str(file), "model_config_file_poll_wait_seconds": 1}
    with (
        embedded(None, **options) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        write(("demo", base, ""), ("pets", base, 'version_labels { key: "a" value: 3 }'))
        wait_for("reloaded")
        response = call(channel, predict(spec("pets", label="a"), image_bytes=[IMAGE]))
        assert response.model_spec.version.value == 3
        file.write_text("model_config_list { config { nam: 1 } }")
        wait_for("Error parsing text-format tensorflow.serving.ModelServerConfig")
        assert call(channel, predict(spec("pets"), image_bytes=[IMAGE])).outputs
