"""How clients reach a server: addresses, metadata, compression, new versions, asyncio."""

import asyncio
import contextlib
import datetime
import gzip
import http.server
import ipaddress
import json
import socket
import threading
import zlib
from concurrent import futures

import grpc
import numpy as np
import pytest
from serving_demo import (
    IMAGE,
    PROBABILITY,
    day_probability,
    demo,
    embedded,
    png,
    publish,
    run_command,
    save_classifier,
)

from serving import loadtest
from tfpipe.core.errors import UserError
from tfpipe.protocol import messages
from tfpipe.protocol.client import AsyncClient, Client
from tfpipe.protocol.transport import InputError, ServerError

DAY = pytest.approx(PROBABILITY, abs=1e-6)
AVAILABLE = messages.ModelVersionStatus.AVAILABLE


@pytest.fixture(scope="module", params=["grpc", "rest"])
def server(request):
    """The address of a server that changes nothing, for each protocol."""
    return demo().address if request.param == "grpc" else f"http://{demo().rest_address}"


class Recorder(grpc.GenericRpcHandler):
    """Answers GetModelStatus; keeps the metadata and the bytes of each request."""

    def __init__(self):
        self.seen = []
        self.server = grpc.server(
            futures.ThreadPoolExecutor(2), [self], options=[("grpc.per_message_decompression", 0)]
        )
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, details):
        def answer(data, context):
            self.seen.append((dict(details.invocation_metadata), data))
            response = messages.GetModelStatusResponse()
            response.model_version_status.add(version=1, state=AVAILABLE)
            return response.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def recorders():
    found = [Recorder(), Recorder()]
    yield found
    for each in found:
        each.server.stop(None)


@pytest.fixture
def recorded_http():
    """The URL of an HTTP server, and the headers and bodies of its requests."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append((dict(self.headers), body))
            status = [{"version": "1", "state": "AVAILABLE", "status": {}}]
            spec, signature = {"version": "1"}, {"serving_default": {"outputs": {"y": {}}}}
            answer = {"model_version_status": status, "model_spec": spec, "outputs": [1.0]}
            answer["metadata"] = {"signature_def": {"signature_def": signature}}
            signature["serving_default"]["outputs"]["y"]["dtype"] = "DT_FLOAT"
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", seen
        running.shutdown()


def test_the_status_of_a_model(server):
    with Client(server, "demo") as client:
        assert client.get_model_status() == [(7, "AVAILABLE", "")]
    with Client(server, "demo", version=8) as client, pytest.raises(ServerError) as caught:
        client.get_model_status()
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("options", "ready"),
    [
        ({}, True),
        ({"version": 7}, True),
        ({"version": 8}, False),
        ({"model_name": "cats"}, False),
        ({"version_label": "stable"}, False),
    ],
)
def test_readiness_is_of_the_model_that_the_client_asks(server, options, ready):
    with Client(server, **{"model_name": "demo", **options}) as client:
        assert client.is_server_ready() is ready


def test_readiness_of_servers_that_are_away_or_of_another_kind(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for form in ("127.0.0.1:{}", "http://127.0.0.1:{}"):
            with Client(form.format(port), "demo", timeout=0.2) as client:
                assert client.is_server_ready() is False
    for form in ("127.0.0.1:{}", "http://127.0.0.1:{}"):
        with Client(form.format(port), "demo", retries=50) as client:  # none of which is used
            assert client.is_server_ready() is False
    for address in (demo().rest_address, f"http://{demo().address}"):
        with Client(address, "demo") as client, pytest.raises(ServerError, match="speaks"):
            client.is_server_ready()
    with (
        embedded(publish(tmp_path / "demo", 1)) as server,
        Client(server.address, "demo") as client,
    ):
        assert client.is_server_ready()
        draining = threading.Thread(target=server.stop, args=[1.0])
        draining.start()
        while client.is_server_ready():
            pass
        draining.join()


def test_metadata_and_token_go_with_each_request(recorders, recorded_http, tmp_path):
    url, seen = recorded_http
    token = tmp_path / "token"
    token.write_text("first\n")
    options = {"metadata": {"X-Team": "cats 7"}, "token_file": str(token)}
    for address in (f"127.0.0.1:{recorders[0].port}", url):
        token.write_text("first\n")
        with Client(address, "demo", **options) as client:
            client.get_model_status()
            token.write_text("second")  # as Kubernetes renews it
            client.get_model_status()
    for found in ([m for m, _ in recorders[0].seen], [h for h, _ in seen]):
        assert [each["x-team"] for each in found] == ["cats 7"] * 2
        assert [each["authorization"] for each in found] == ["Bearer first", "Bearer second"]
    with Client(url, "demo", token="abc") as client:  # noqa: S106
        client.get_model_status()
    assert seen[-1][0]["authorization"] == "Bearer abc"


def test_a_load_has_token_metadata_and_version(recorders, tmp_path, monkeypatch, capsys):
    (tmp_path / "token").write_text("secret")
    (tmp_path / "image.png").write_bytes(IMAGE)
    flags = [f"--server=127.0.0.1:{recorders[0].port}", f"--token_file={tmp_path / 'token'}"]
    flags += ["--metadata=x-team=cats", "--version=3", "--seconds=0.3", "--warm_up=0"]
    code, _, err = run_command(loadtest, [*flags, str(tmp_path)], monkeypatch, capsys)
    assert code == 0, err
    _, *sent = recorders[0].seen  # after the description of the model
    assert sent
    for metadata, data in sent:
        assert (metadata["x-team"], metadata["authorization"]) == ("cats", "Bearer secret")
        assert messages.PredictRequest.FromString(data).model_spec.version.value == 3


@pytest.mark.parametrize("compression", ["", "gzip", "deflate"])
def test_grpc_requests_are_compressed(recorders, compression):
    label = "x" * 10_000
    options = {"version_label": label, "compression": compression}
    with Client(f"127.0.0.1:{recorders[0].port}", "demo", **options) as client:
        client.get_model_status()
    ((_, data),) = recorders[0].seen
    if compression:
        data = zlib.decompress(data, 47)  # both forms
    assert messages.GetModelStatusRequest.FromString(data).model_spec.version_label == label
    with Client(demo().address, "demo", compression=compression) as client:
        assert client.predict({"image_bytes": [IMAGE]})["probability"] == DAY


def test_rest_requests_are_compressed(recorded_http):
    url, seen = recorded_http
    with Client(url, "demo", compression="gzip") as client:
        assert client.predict({"x": [1.0, 2.0]})["y"].tolist() == [1.0]
    headers, body = seen[-1]
    assert headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(body))["inputs"] == {"x": [1.0, 2.0]}
    assert "content-encoding" not in seen[0][0]


def test_requests_go_to_all_addresses_in_turn(recorders):
    addresses = ",".join(f"127.0.0.1:{each.port}" for each in recorders)
    with Client(f"ipv4:{addresses}", "demo") as client:
        for _ in range(20):
            client.get_model_status()
    assert all(len(each.seen) > 5 for each in recorders)
    before = [len(each.seen) for each in recorders]
    options = {"channel_options": {"grpc.lb_policy_name": "pick_first"}}
    with Client(f"ipv4:{addresses}", "demo", **options) as client:
        for _ in range(20):
            client.get_model_status()
    after = [len(each.seen) for each in recorders]
    assert sorted(np.subtract(after, before)) == [0, 20]


@pytest.mark.parametrize("scheme", ["dns:///", "dns:", ""])
def test_a_name_is_resolved(scheme):
    port = demo().address.split(":")[1]
    with Client(f"{scheme}localhost:{port}", "demo") as client:
        assert client.predict({"image_bytes": [IMAGE]})["probability"] == DAY


def test_keepalive_finds_a_dead_connection():
    """A relay that goes silent in the middle of a call, as a lost node does."""
    stop = threading.Event()
    host, port = demo().address.split(":")

    def relay(source, sink):
        with contextlib.suppress(OSError):
            while not stop.is_set():
                data = source.recv(1 << 16)
                if data and not stop.is_set():
                    sink.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with Client(address, "demo", timeout=1000, retries=0, keepalive=0.3) as client:
            client_side = threading.Thread(target=client.metadata)
            client_side.start()
            inner, _ = listening.accept()
            with inner, socket.create_connection((host, int(port))) as outer:
                for pair in ((inner, outer), (outer, inner)):
                    threading.Thread(target=relay, args=pair, daemon=True).start()
                client_side.join()
                stop.set()
                with pytest.raises(ServerError) as caught:
                    client.metadata()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"server": "127.0.0.1"}, "no known form"),
        ({"server": ""}, "no known form"),
        ({"server": "grpc://127.0.0.1:8500"}, "dns:///HOST:PORT"),
        ({"server": "ftp://127.0.0.1:8500"}, "no known form"),
        ({"server": "http//127.0.0.1:8500"}, "no known form"),
        ({"server": "http://"}, "no known form"),
        ({"version": 1, "version_label": "stable"}, "both given"),
        ({"version": -1}, "`version=-1`"),
        ({"version": 2**63}, "is no version"),
        ({"timeout": 0}, "`timeout=0`"),
        ({"keepalive": -1}, "`keepalive=-1`"),
        ({"keepalive": float("nan")}, "`keepalive=nan`"),
        ({"compression": "zip"}, "`compression=zip`"),
        ({"token": "a b"}, "`token` holds no token"),
        ({"token": "a\n"}, "`token` holds no token"),
        ({"token": "a", "token_file": "b"}, "leave one out"),
        ({"token_file": "nowhere"}, "cannot read nowhere"),
        ({"token_file": "/dev/null"}, "holds no token"),
        ({"metadata": {"a b": "c"}}, "'a b'"),
        ({"metadata": {"a-bin": "c"}}, "-bin"),
        ({"metadata": {"a": "c\r\nb: d"}}, "printable"),
        ({"server": "http://127.0.0.1:1", "compression": "deflate"}, "gzip"),
        ({"server": "http://127.0.0.1:1", "keepalive": 1}, "gRPC"),
        ({"server": "http://127.0.0.1:1", "channel_options": {"a": 1}}, "gRPC"),
        ({"server": "http://127.0.0.1:1", "tls": True}, "https://"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_option_without_a_use_is_refused(kind, options, words):
    with pytest.raises(UserError) as caught:
        kind(**{"server": "127.0.0.1:1", "model_name": "demo", **options})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([IMAGE], "give an array for each name"),
        ({"image_bytes": [[1], [1, 2]]}, "'image_bytes'"),
        ({"image_bytes": [b"a", 7]}, "int"),
        ({"image_bytes": [b"a", [b"b"]]}, "'image_bytes'"),
        ({"image_bytes": None}, "NoneType"),
        ({"image_bytes": [None]}, "NoneType"),
        ({"image_bytes": {"a": 1}}, "dict"),
        ({"image_bytes": ["\ud800"]}, "'image_bytes'"),
        ({"image_bytes": np.array(["2020-01-01"], "datetime64[D]")}, "datetime64"),
        ({"image_bytes": [2**70]}, "'image_bytes'"),
        ({7: [1]}, "7"),
    ],
)
def test_a_wrong_input_is_the_callers_error(server, inputs, words):
    with Client(server, "demo") as client:
        with pytest.raises(InputError) as caught:
            client.predict(inputs)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, UserError)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match="list of names"):
            client.predict({"image_bytes": [IMAGE]}, "probability")
        assert client.predict({"image_bytes": [IMAGE]}, ["probability"])["probability"] == DAY


def test_complex_numbers_need_grpc():
    rest = f"http://{demo().rest_address}"
    with Client(rest, "demo") as client, pytest.raises(InputError, match="complex"):
        client.predict({"image_bytes": np.array([1j])})


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("photo.jpg", "list of files"),
        (IMAGE, "list of files"),
        ([IMAGE, "a.jpg"], "image 1 is str"),
    ],
)
def test_images_are_bytes(server, images, words):
    with Client(server, "demo") as client:
        with pytest.raises(InputError, match=words):
            client.classify_images(images)
        (found,) = client.classify_images([bytearray(IMAGE)])
    assert found.label == "day"


@pytest.fixture
def swapping(tmp_path):
    """A server whose second version has its two classes the other way round."""
    base = tmp_path / "demo"
    save_classifier(base, 1, ["cat", "dog"], 0)
    options = {"rest_api_port": -1, "file_system_poll_wait_seconds": 0.0}
    with embedded(base, refuse_signature_changes=False, **options) as server:
        yield base, server


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_labels_are_those_of_the_version_that_answers(swapping, protocol):
    base, server = swapping
    address = server.address if protocol == "grpc" else f"http://{server.rest_address}"
    with Client(address, "demo") as client:
        assert client.labels == ("cat", "dog")
        assert client.classify_images([b""], threshold=0.1)[0].label == "dog"
        save_classifier(base, 2, ["dog", "cat"], 0)
        server.models.refresh()
        assert client.classify_images([b""], threshold=0.1)[0].label == "cat"
        assert client.classify_images([b""])[0].label == "dog"
        publish(base, 3)  # two classes, night and day, and further signatures
        server.models.refresh()
        found = client.predict({"a": np.float32([1]), "b": np.int32([2])}, signature_name="add")
        assert found["sum"].dtype == np.float32
        assert "add" in client.signatures
        assert client.metadata().version == 3


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_label_may_move(swapping, protocol):
    base, server = swapping
    save_classifier(base, 2, ["dog", "cat"], 0)

    def assign(version):
        config = messages.ModelServerConfig()
        model = config.model_config_list.config.add(name="demo", base_path=str(base))
        model.model_platform = "tensorflow"
        model.model_version_policy.all.SetInParent()
        model.version_labels["stable"] = version
        server.models.configure(config)

    assign(1)
    address = server.address if protocol == "grpc" else f"http://{server.rest_address}"
    with Client(address, "demo", version_label="stable") as client:
        assert client.classify_images([b""], threshold=0.1)[0].label == "dog"
        assert client.metadata().version == 1
        assign(2)
        assert client.metadata().version == 2
        assert client.classify_images([b""], threshold=0.1)[0].label == "cat"
        assert client.labels == ("dog", "cat")


def test_asyncio(server):
    files = [png(grey) for grey in range(0, 250, 10)]

    async def run():
        async with AsyncClient(server, "demo") as client:
            assert await client.is_server_ready()
            assert await client.get_model_status() == [(7, "AVAILABLE", "")]
            assert (await client.metadata()).version == 7
            assert "add" in await client.signatures()
            asked = (client.predict({"image_bytes": [file]}, ["probability"]) for file in files)
            answers = await asyncio.gather(*asked)
            for file, answer in zip(files, answers, strict=True):
                assert answer["probability"] == pytest.approx(day_probability(file), abs=1e-6)
            good, bad = await client.classify_images([IMAGE, b"no image"])
            assert (good.label, type(bad)) == ("day", ServerError)
            with pytest.raises(InputError):
                await client.predict({"image_bytes": [None]})

    asyncio.run(run())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The folder of a certificate for 127.0.0.1, and its key; of the server's configuration."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    found = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectAlternativeName([address]), False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(found.public_bytes(pem))
    lines = {"server_key": private.decode(), "server_cert": found.public_bytes(pem).decode()}
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in lines.items())
    (folder / "ssl.config").write_text(text)
    return folder


@pytest.fixture(scope="module")
def secure(certificate, tmp_path_factory):
    base = publish(tmp_path_factory.mktemp("secure") / "demo", 1)
    options = {"ssl_config_file": str(certificate / "ssl.config"), "rest_api_port": -1}
    with embedded(base, **options) as server:
        yield server


@pytest.mark.parametrize(
    ("form", "tls", "words"),
    [
        ("https://{plain_grpc}", True, "not encrypted"),
        ("https://{plain_rest}", True, "not encrypted"),
        ("{plain_grpc}", True, "not encrypted"),
        ("{plain_rest}", True, "not encrypted"),
        ("http://{plain_grpc}", False, "speaks gRPC"),
        ("{plain_rest}", False, "speaks HTTP"),
        ("http://{grpc}", False, "encrypted"),
        ("http://{rest}", False, "https://"),
        ("{grpc}", False, "encrypted"),
        ("{rest}", False, "encrypted"),
        ("https://{grpc}", True, "speaks gRPC"),
        ("{rest}", True, "HTTP"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_port_of_another_protocol_is_told(secure, certificate, kind, form, tls, words):
    plain = {"plain_grpc": demo().address, "plain_rest": demo().rest_address}
    address = form.format(grpc=secure.address, rest=secure.rest_address, **plain)
    options = {"ca_file": str(certificate / "server.pem")} if tls else {}
    client = kind(address, "demo", retries=0, timeout=5, **options)
    with pytest.raises(ServerError) as caught:
        if kind is Client:
            client.metadata()
        else:
            asyncio.run(client.metadata())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
