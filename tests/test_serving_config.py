"""Configuration files in TensorFlow Serving's text formats, and encryption."""

import contextlib
import datetime
import inspect
import ipaddress
import json
import os
import pathlib
import socket

import grpc
import pytest
from serving_demo import IMAGE, embedded, publish, run_command

from serving import loadtest
from serving import server_config as config
from tfpipe.core.errors import UserError
from tfpipe.protocol.client import Client
from tfpipe.protocol.transport import ServerError

FOLDER = pathlib.Path(__file__).parent.parent / "serving"


def written(folder, text):
    path = folder / "x.config"
    path.write_text(text)
    return str(path)


def test_the_files_beside_the_server_are_read():
    assert config.read_batching(str(FOLDER / "batching.config")).max_batch_size == 128
    assert config.read_metrics_path(str(FOLDER / "monitoring.config")).endswith("/metrics")
    (model,) = config.read_models(str(FOLDER / "models.config")).model_config_list.config
    assert model.name == "demo"


def test_a_batching_file(tmp_path):
    found = config.read_batching(written(tmp_path, ""))
    assert found == config.BatchingParameters(
        1000, 1000, 0, 10, len(os.sched_getaffinity(0)), (), config.MAX_REQUESTS
    )
    found = config.read_batching(
        written(
            tmp_path,
            "max_batch_size { value: 8 } batch_timeout_micros { value: 500 }"
            " max_enqueued_batches { value: 3 } num_batch_threads { value: 2 }"
            " allowed_batch_sizes: 4 allowed_batch_sizes: 8 thread_pool_name { value: 'x' }"
            " enable_large_batch_splitting { value: true }",
        )
    )
    assert found == config.BatchingParameters(8, 8, 500, 3, 2, (4, 8), max_requests=8 * (3 + 2))
    text = (
        "max_batch_size { value: 64 } max_execution_batch_size { value: 8 } allowed_batch_sizes: 8"
        " enable_large_batch_splitting { value: true }"
    )
    found = config.read_batching(written(tmp_path, text))
    assert (found.max_batch_size, found.max_execution_batch_size) == (64, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_batch { value: 1 }",
            "Error parsing text-format tensorflow.serving.BatchingParameters: 1:1 : .*max_batch",
        ),
        ("max_batch_size { value: 0 }", "max_execution_batch_size must be at least 1"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be at least 0"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: 8", "must rise and end with .*, 4"),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [4, 2, 4]",
            "must rise and end with the largest batch",
        ),
        ("pad_variable_length_inputs: true", "is for TensorFlow Serving only"),
        (
            "max_batch_size { value: 2 } max_execution_batch_size { value: 4 }"
            " enable_large_batch_splitting { value: true }",
            "max_execution_batch_size, 4, must be at most max_batch_size, 2",
        ),
    ],
)
def test_wrong_batching_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        config.read_batching(written(tmp_path, text))
    assert str(caught.value).startswith("--batching_parameters_file=")
    assert "\n" not in str(caught.value)


def test_metrics_are_shown_where_the_file_says(tmp_path):
    read = config.read_metrics_path
    assert read(written(tmp_path, "")) == ""
    assert read(written(tmp_path, "prometheus_config { enable: true }")) == (
        "/monitoring/prometheus/metrics"
    )
    assert read(written(tmp_path, 'prometheus_config { enable: true path: "/m" }')) == "/m"
    assert read(written(tmp_path, 'prometheus_config { path: "/m" }')) == ""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """NAME.pem and NAME.key of two authorities, and of who they have signed."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("keys")
    encoding = serialization.Encoding.PEM
    today = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    identifier = x509.AuthorityKeyIdentifier
    usage = dict.fromkeys(inspect.signature(x509.KeyUsage).parameters, False)
    usage["digital_signature"] = True

    def issue(name, signed_by=None, started=-1):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer, issuer_key = signed_by or (subject, key)
        start = today + datetime.timedelta(days=started)
        certificate = (
            x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=signed_by is None, path_length=None), True)
            .add_extension(x509.SubjectAlternativeName([address]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            # Python 3.13 asks for both of these.
            .add_extension(identifier.from_issuer_public_key(issuer_key.public_key()), False)
            .add_extension(x509.KeyUsage(**usage | {"key_cert_sign": signed_by is None}), True)
            .sign(issuer_key, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(encoding))
        private = key.private_bytes(
            encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.key").write_bytes(private)
        return subject, key

    authority, other = issue("authority"), issue("other")
    issue("server", authority)
    issue("client", authority)
    issue("expired", authority, started=-10)
    issue("stranger", other)
    return folder


def ask(server, keys, name="", ca=""):
    files = {"ca_file": str(keys / f"{ca}.pem")} if ca else {}
    if name:
        files |= {"cert_file": str(keys / f"{name}.pem"), "key_file": str(keys / f"{name}.key")}
    with Client(server.address, "demo", retries=0, timeout=5, **files) as client:
        return client.predict({"image_bytes": [IMAGE]})


@pytest.mark.parametrize("verify", [True, False])
def test_encryption(keys, tmp_path, verify, monkeypatch, capsys):
    """With `verify`, only clients with a certificate of the authority are answered."""
    lines = [
        f"{name}: {json.dumps((keys / file).read_text())}"
        for name, file in (
            ("server_key", "server.key"),
            ("server_cert", "server.pem"),
            ("custom_ca", "authority.pem"),
        )
    ]
    path = written(tmp_path, "\n".join([*lines, f"client_verify: {str(verify).lower()}"]))
    refused = [("", ""), ("client", "other")]
    no_client = [("", "authority"), ("expired", "authority"), ("stranger", "authority")]
    with embedded(publish(tmp_path / "demo", 1), ssl_config_file=path) as server:
        for name, ca in refused + (no_client if verify else []):
            with pytest.raises(ServerError) as caught:
                ask(server, keys, name, ca)
            assert caught.value.code is grpc.StatusCode.UNAVAILABLE, (name, ca)
        for name, ca in [("client", "authority")] + ([] if verify else no_client[:1]):
            assert ask(server, keys, name, ca)
        (tmp_path / "image.png").write_bytes(IMAGE)
        files = (
            ("ca_file", "authority.pem"),
            ("cert_file", "client.pem"),
            ("key_file", "client.key"),
        )
        flags = [f"--{flag}={keys / name}" for flag, name in files]
        flags += [f"--server={server.address}", "--model_name=demo", "--seconds=0.2", "--warm_up=0"]
        code, out, err = run_command(loadtest, [*flags, str(tmp_path)], monkeypatch, capsys)
        assert code == 0, err
        assert "OK" in out


def test_rest_has_the_encryption_of_grpc(keys, tmp_path):
    """Nothing is answered in plain text, whoever asks."""
    text = "".join(
        f"{name}: {json.dumps((keys / file).read_text())}\n"
        for name, file in (("server_key", "server.key"), ("server_cert", "server.pem"))
    )
    options = {"ssl_config_file": written(tmp_path, text), "rest_api_port": -1}
    with embedded(publish(tmp_path / "demo", 1), **options) as server:
        url = f"https://{server.rest_address}"
        with Client(url, "demo", ca_file=str(keys / "authority.pem"), retries=0) as client:
            assert client.predict({"image_bytes": [IMAGE]})
        with (
            Client(url, "demo", ca_file=str(keys / "other.pem"), retries=0) as client,
            pytest.raises(ServerError),
        ):
            client.predict({"image_bytes": [IMAGE]})
        host, port = server.rest_address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            plain.sendall(b"GET /v1/models/demo HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert b"HTTP" not in plain.recv(1000)
        assert server.rest_scheme == "https"


@pytest.mark.parametrize(("cert", "key"), [("server", "client"), ("server", None)])
def test_keys_that_do_not_fit_are_one_line(keys, tmp_path, cert, key):
    damaged = "-----BEGIN X-----"
    found = (keys / f"{key}.key").read_text() if key else damaged
    text = f"server_key: {json.dumps(found)}\n"
    text += f"server_cert: {json.dumps((keys / f'{cert}.pem').read_text())}"
    with pytest.raises(UserError, match="server_cert and server_key are no pair") as caught:
        config.read_tls(written(tmp_path, text))
    assert "\n" not in str(caught.value)


PEM = r"-----BEGIN X-----\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('server_key: "server.key"', "server_key holds no PEM text"),
        (
            f'server_key: "{PEM}" server_cert: "{PEM}" client_verify: true',
            "client_verify needs custom_ca",
        ),
    ],
)
def test_wrong_keys_of_a_server_are_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        config.read_tls(written(tmp_path, text))


@pytest.mark.parametrize("server", ["127.0.0.1:1", "https://127.0.0.1:1"])
@pytest.mark.parametrize("flag", ["ca_file", "cert_file"])
def test_wrong_keys_of_a_client_are_one_line(server, flag):
    with pytest.raises(UserError, match=r"^cannot read nowhere\.pem: No such file"):
        Client(server, "demo", **{flag: "nowhere.pem"})
