"""The flags of tensorflow_model_server: done, or said to have no effect."""

import dataclasses
import http.client

import grpc
import pytest
from serving_demo import IMAGE, call, embedded, predict, publish, run_command, spec
from test_serving_compose import FLAGS

from serving import server as command
from serving.server_options import ServerOptions, check
from tfpipe.core.errors import UserError


def test_every_flag_of_tensorflow_serving_is_known():
    assert {field.name for field in dataclasses.fields(ServerOptions)} >= FLAGS


def test_flags_without_an_effect_are_named_in_one_line():
    assert check(ServerOptions()) == ""
    given = ServerOptions(num_load_threads=4, mixed_precision="bfloat16", port=1)
    line = check(given)
    assert "--num_load_threads" in line
    assert "--mixed_precision" in line
    assert "--port" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "given", [{"use_alts_credentials": True}, {"saved_model_tags": "serve,gpu"}]
)
def test_what_would_be_another_server_is_refused(given):
    (name,) = given
    with pytest.raises(UserError, match=f"--{name}=.* not supported here"):
        check(ServerOptions(**given))


@pytest.mark.parametrize(
    "given",
    [
        {"batching_parameters_file": "x", "enable_batching": False},
        {"tensorflow_session_parallelism": 2, "tensorflow_intra_op_parallelism": 1},
        {"tensorflow_session_parallelism": 2, "tensorflow_inter_op_parallelism": 1},
    ],
)
def test_flags_that_contradict_each_other_are_refused(given):
    with pytest.raises(UserError) as caught:
        check(ServerOptions(**given))
    assert all(f"--{name}" in str(caught.value) for name in given)


def test_the_version_is_printed(monkeypatch, capsys):
    code, out, err = run_command(command, ["--version"], monkeypatch, capsys)
    assert (code, err) == (0, "")
    assert "TensorFlow 2." in out


@pytest.fixture
def base(tmp_path):
    return publish(tmp_path / "demo", 1, signatures=("classify",))


def test_a_unix_socket_and_arguments_of_grpc(base, tmp_path):
    path = tmp_path / "grpc.sock"
    path.touch()  # of an earlier server
    path.unlink()
    options = {
        "grpc_socket_path": str(path),
        "grpc_channel_arguments": "grpc.max_connection_age_ms=2000,grpc.primary_user_agent=x",
    }
    with embedded(base, **options) as server:
        for address in (f"unix:{path}", server.address):
            with grpc.insecure_channel(address) as channel:
                assert call(channel, predict(spec(), image_bytes=[IMAGE])).outputs
    with embedded(base, **options), grpc.insecure_channel(f"unix:{path}") as channel:
        assert call(channel, predict(spec(), image_bytes=[IMAGE])).outputs  # once more


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"grpc_socket_path": "/nowhere/x.sock"}, "--grpc_socket_path=/nowhere/x.sock: no socket"),
        ({"grpc_channel_arguments": "a=1,b"}, "'b' is not KEY=VALUE"),
    ],
)
def test_wrong_values_are_one_line(base, given, words):
    with pytest.raises(UserError, match=words) as caught, embedded(base, **given):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("allowed", [True, False])
def test_web_pages_of_other_origins(base, allowed):
    options = {"rest_api_port": -1, "rest_api_enable_cors_support": allowed}
    with embedded(base, **options) as server:
        connection = http.client.HTTPConnection(server.rest_address, timeout=30)
        headers = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
        for method, path in (("OPTIONS", "/v1/models/demo:predict"), ("GET", "/v1/models/demo")):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            origin = answer.getheader("Access-Control-Allow-Origin")
            assert origin == ("*" if allowed else None)
            assert answer.status == 200 or not allowed
        connection.close()
