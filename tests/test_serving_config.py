"""Configuration files in TensorFlow Serving's text formats, and encryption."""

import datetime
import ipaddress
import os
import pathlib

import grpc
import pytest
from google.protobuf import text_format
from serving_demo import IMAGE, call, embedded, predict, publish, spec

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


def test_what_a_batching_file_leaves_out_is_tensorflow_servings(tmp_path):
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
    split = (
        "max_batch_size { value: 64 } max_execution_batch_size { value: 8 } allowed_batch_sizes: 8"
    )
    found = config.read_batching(
        written(tmp_path, split + " enable_large_batch_splitting { value: true }")
    )
    assert (found.max_batch_size, found.max_execution_batch_size) == (64, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch { value: 1 }", "is no BatchingParameters: 1:1 : .*max_batch"),
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


# ---------------------------------------------------------------------------- encryption


def issue(folder, name, *, signed_by=None, days=1, started=-1):
    """Writes NAME.pem and NAME.key: an authority, or a certificate that one has signed."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer, issuer_key = signed_by or (subject, key)
    now = datetime.datetime.now(datetime.timezone.utc)
    start = now + datetime.timedelta(days=started)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days + 1))
        .add_extension(x509.BasicConstraints(ca=signed_by is None, path_length=None), True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(issuer_key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(encoding))
    private = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.key").write_bytes(private)
    return subject, key


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    authority = issue(folder, "authority")
    other = issue(folder, "other")
    issue(folder, "server", signed_by=authority)
    issue(folder, "client", signed_by=authority)
    issue(folder, "expired", signed_by=authority, started=-10)
    issue(folder, "stranger", signed_by=other)
    return folder


def ssl_config(keys, *, verify):
    text = {
        name: (keys / name).read_text() for name in ("server.key", "server.pem", "authority.pem")
    }
    message = config._DECLARED["SSLConfig"](
        server_key=text["server.key"],
        server_cert=text["server.pem"],
        custom_ca=text["authority.pem"],
        client_verify=verify,
    )
    return text_format.MessageToString(message)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("tls") / "demo"
    publish(base, 1)
    return base


def client_of(address, keys, name="", ca="authority", **more):
    files = {"ca_file": str(keys / f"{ca}.pem")} if ca else {}
    if name:
        files |= {"cert_file": str(keys / f"{name}.pem"), "key_file": str(keys / f"{name}.key")}
    return Client(address, "demo", retries=0, timeout=5, **files, **more)


def test_only_clients_with_a_certificate_are_answered(base, keys, tmp_path):
    path = written(tmp_path, ssl_config(keys, verify=True))
    with embedded(base, ssl_config_file=path) as server:
        with client_of(server.address, keys, "client") as client:
            assert client.predict({"image_bytes": [IMAGE]})
        refused = {
            "plaintext": Client(server.address, "demo", retries=0, timeout=5),
            "wrong authority": client_of(server.address, keys, "client", ca="other"),
            "expired": client_of(server.address, keys, "expired"),
            "no certificate": client_of(server.address, keys),
            "another's certificate": client_of(server.address, keys, "stranger"),
        }
        for name, client in refused.items():
            with client, pytest.raises(ServerError) as caught:
                client.predict({"image_bytes": [IMAGE]})
            assert caught.value.code is grpc.StatusCode.UNAVAILABLE, name
        with client_of(server.address, keys, "client") as client:
            assert client.predict({"image_bytes": [IMAGE]})


def test_a_server_may_be_encrypted_for_everybody(base, keys, tmp_path):
    path = written(tmp_path, ssl_config(keys, verify=False))
    with embedded(base, ssl_config_file=path) as server:
        with client_of(server.address, keys) as client:
            assert client.predict({"image_bytes": [IMAGE]})
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
            call(channel, predict(spec(), image_bytes=[IMAGE]), timeout=5)


def test_wrong_keys_are_one_line(tmp_path):
    with pytest.raises(UserError, match="server_key holds no PEM text"):
        config.ServerTls(written(tmp_path, 'server_key: "server.key"'))
    pem = r"-----BEGIN X-----\n"
    text = f'server_key: "{pem}" server_cert: "{pem}" client_verify: true'
    with pytest.raises(UserError, match="client_verify needs custom_ca"):
        config.ServerTls(written(tmp_path, text))
    with pytest.raises(UserError, match=r"cannot read nowhere\.pem"):
        Client("127.0.0.1:1", "demo", ca_file="nowhere.pem")
    with pytest.raises(UserError, match=r"grpc://127\.0\.0\.1:1"):
        Client("grpc://127.0.0.1:1", "demo")
