"""The web page and its JSON endpoint, with a client that needs no server."""

import asyncio
import base64
import io
import tempfile
import threading
import warnings

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serving_demo import png, run_command, running_page

from serving import webapp
from serving.web import app, heat, limits
from serving.web import page_errors as errors
from serving.web.guard import HEADERS
from serving.web.limits import Limits, Rate
from serving.web.model import ModelClient
from serving.web.page_errors import WebError
from serving.web.sample_pictures import DRAWN, MOST, SamplePictures
from tfpipe.core.errors import UserError
from tfpipe.protocol import messages
from tfpipe.protocol.transport import Metadata, ServerError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it asks for a newer httpx
    from starlette.testclient import TestClient

BASE = "http://127.0.0.1"


class FakeClient:
    """Finds a picture as bright as its first pixel; two classes in version 1, three in 2."""

    timeout, model_name = 5.0, "demo"

    def __init__(self, state):
        self.state = state

    @property
    def labels(self):
        return ("night", "dusk", "day")[:: 2 if self.state.version == 1 else 1]

    def metadata(self):
        self.fail()
        explain = messages.SignatureDef()
        explain.outputs["heat_map"].name = "x"
        return Metadata(self.state.version, {"explain": explain} if self.state.explains else {})

    def check_signature(self):
        if not self.state.classifies:
            raise ServerError(grpc.StatusCode.FAILED_PRECONDITION, "it has no such signature")

    def fail(self):
        if self.state.error:
            raise self.state.error

    def predict(self, inputs, outputs=(), *, signature_name=""):
        self.fail()
        self.state.go_on.wait(5)
        (data,) = inputs["image_bytes"]
        damaged = len(data) < 20
        day = 0 if damaged else Image.open(io.BytesIO(data)).convert("L").getpixel((0, 0)) / 255
        values = [1 - day, *[0.0] * (len(self.labels) - 2), day]
        index = int(np.argmax(values))
        found = {
            "probabilities": np.array([values], np.float32),
            "class_index": np.array([index]),
            "class_name": np.array([self.labels[index].encode()], object),
            "error": np.array([b"damaged" if damaged else b""], object),
        }
        if self.state.unfamiliar is not None:
            found["unfamiliar"] = np.array([self.state.unfamiliar], np.float32)
        if self.state.labels is not None:
            found["labels"] = np.array([self.state.labels])
        if signature_name == "explain":
            found["heat_map"] = np.tile(np.linspace(0, 1, 224, dtype=np.float32), (1, 224, 1))
        return found

    def close(self):
        pass


class State:
    """What the fake server does next."""

    def __init__(self):
        self.version, self.explains, self.classifies, self.error = 1, True, True, None
        self.unfamiliar = self.labels = None
        self.go_on = threading.Event()
        self.go_on.set()


@pytest.fixture
def state():
    return State()


@pytest.fixture
def site(state):
    """Returns a function from changed limits to an application."""
    sites = []

    def make(**changed):
        samples = SamplePictures(DRAWN, max_bytes=1 << 20)
        sites.append(app.Site(ModelClient(lambda: FakeClient(state)), samples, Limits(**changed)))
        return app.build(sites[-1], ["cats.example"])

    yield make
    for each in sites:
        each.close()


@pytest.fixture
def ask(site):
    return TestClient(site(), base_url=BASE, raise_server_exceptions=False)


def form(*pictures):
    return [("image", (f"{place}.png", data)) for place, data in enumerate(pictures)]


def classify(client, *pictures, **more):
    return client.post("/api/classify", files=form(*pictures), **more)


def test_pictures_are_answered_in_order_and_a_bad_one_costs_only_itself(ask):
    answer = classify(ask, png(204), b"\xff\xd8\xff", png(0), b"words")
    assert answer.status_code == 200
    day, damaged, night, words = answer.json()["results"]
    assert day.pop("latency_ms") >= 0
    assert day.pop("probabilities") == pytest.approx({"night": 0.2, "day": 0.8})
    assert day.pop("confidence") == pytest.approx(0.8)
    assert day == {"file": "0.png", "label": "day", "version": 1}
    assert night["label"] == "night"
    assert "damaged" in damaged["error"]
    assert "not a picture" in words["error"]


@pytest.mark.parametrize("explains", [True, False])
def test_the_heat_map_comes_if_asked_for_and_there(ask, state, explains):
    state.explains = explains
    (found,) = classify(ask, png(9), params={"heat_map": "true"}).json()["results"]
    assert found.get("heat_map", "").startswith("data:image/png;base64,") is explains
    (found,) = classify(ask, png(9)).json()["results"]
    assert "heat_map" not in found


def test_a_picture_of_several_classes_has_a_list_of_them(ask, state):
    state.version, state.labels = 2, [True, False, True]
    (found,) = classify(ask, png(204)).json()["results"]
    assert (found["label"], found["labels"]) == ("day, night", ["day", "night"])
    state.labels = [False, False, False]
    (found,) = classify(ask, png(204)).json()["results"]
    assert (found["label"], found["labels"]) == ("none of the classes", [])
    state.labels = None
    assert "labels" not in classify(ask, png(204)).json()["results"][0]


@pytest.mark.parametrize(("score", "shown"), [(2.5, True), (0.5, False)])
def test_a_picture_of_none_of_the_classes_is_called_so(ask, state, score, shown):
    state.unfamiliar = score
    (found,) = classify(ask, png(204)).json()["results"]
    assert (found["label"], found["unfamiliar"]) == ("day", score)
    label = '<h3 class="label">none of these</h3>'
    page = ask.post("/", files=form(png(204))).text
    assert (label in page) is shown
    assert '<span class="seen">day</span>' in page


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_heat_map_keeps_its_shape_and_gets_brighter_with_heat(rows, columns):
    ramp = np.tile(np.linspace(0, 1, columns, dtype=np.float32), (rows, 1))
    data = base64.b64decode(heat.data_url(ramp).partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), int)
    step = -(-max(rows, columns) // 64)
    assert pixels.shape[:2] == (-(-rows // step), -(-columns // step))
    # Rec. 601 luma of the colours, which must order the heats.
    luma = pixels[0, :, :3] @ [299, 587, 114]
    assert (np.diff(luma) >= -1000).all()


REFUSED = [
    (b"", 422, "empty"),
    (b"some words", 415, "not a picture"),
    (b"RIFF\0\0\0\0WEBPVP8 ", 415, "WebP"),
    (b"\0\0\0\x1cftypavif", 415, "AVIF"),
    (b"\0\0\0\x18ftypheic", 415, "HEIC"),
    (b"\0\0\0\x18ftypisom", 415, "video"),
    (b"II*\0rest", 415, "TIFF"),
    (b"%PDF-1.7", 415, "PDF"),
    (b"PK\3\4", 415, "ZIP"),
    (b"<svg xmlns", 415, "SVG"),
    (b"\xff\xd8\xff\xe0", 422, "damaged"),
]


@pytest.mark.parametrize(("data", "status", "word"), REFUSED)
def test_what_is_no_picture_is_refused_in_words(ask, data, status, word):
    answer = classify(ask, data)
    assert answer.status_code == status
    assert word in answer.json()["results"][0]["error"]
    page = ask.post("/", files=form(data))
    assert page.status_code == status
    assert word in page.text


def body_of(*parts):
    lines = [
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="p.png"\r\n\r\n'
        + part
        + b"\r\n"
        for part in parts
    ]
    return b"".join([*lines, b"--x--\r\n"])


MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_while_it_is_read(site, chunked):
    ask = TestClient(site(request_bytes=1000, images=1), base_url=BASE)

    for size, status in ((1000, 200), (1001, 413), (50_000, 413)):
        body = body_of(png(0).ljust(size, b"\0"))
        content = (body[start : start + 500] for start in range(0, len(body), 500))
        answer = ask.post("/api/classify", content=content if chunked else body, headers=MULTIPART)
        assert ("content-length" in answer.request.headers) is not chunked
        assert answer.status_code == status, answer.text
        assert status == 200 or "too large" in answer.json()["error"]


def test_no_picture_touches_a_disk(site, monkeypatch):
    def rollover(_):
        raise AssertionError("a file was written")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    ask = TestClient(site(request_bytes=8 << 20), base_url=BASE)
    data = png(0) + bytes((8 << 20) - len(png(0)))
    assert classify(ask, data).status_code == 200


def test_forms_that_are_none(ask, site):
    assert ask.post("/api/classify", data={"a": "b"}).status_code == 415
    assert ask.post("/api/classify", content=b"{}").status_code == 415
    answer = ask.post("/api/classify", content=b"nothing", headers=MULTIPART)
    assert answer.status_code == 400
    answer = ask.post("/api/classify", content=body_of(), headers=MULTIPART)
    assert (answer.status_code, answer.json()) == (400, {"error": "Choose a picture first."})
    few = TestClient(site(images=2), base_url=BASE)
    assert classify(few, png(1), png(2)).status_code == 200
    answer = classify(few, png(1), png(2), png(3))
    assert answer.status_code == 413
    assert "at most 2" in answer.json()["error"]


async def post(application, receive):
    """Runs a request whose body comes from `receive`; returns its status and body."""
    sent = []

    async def send(message):
        sent.append(message)

    path = "/api/classify"
    headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x")]
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http",
        "server": ("127.0.0.1", 80), "http_version": "1.1",
    }  # fmt: skip
    await application(scope, receive, send)
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:])


def test_a_body_that_does_not_arrive_is_not_waited_for(site):
    async def receive():
        await asyncio.sleep(30)

    status, body = asyncio.run(post(site(receive_s=0.05), receive))
    assert status == 408
    assert b"did not arrive" in body


def test_a_client_that_goes_away_is_let_go(site):
    async def receive():
        return {"type": "http.disconnect"}

    assert asyncio.run(post(site(), receive))[0] == 499


def test_more_requests_than_fit_are_refused_at_once(site):
    async def slow():
        await asyncio.sleep(0.3)
        return {"type": "http.request", "body": body_of(png(0)), "more_body": False}

    async def crowd():
        application = site(requests=2)
        return await asyncio.gather(*(post(application, slow) for _ in range(4)))

    statuses = [status for status, _ in asyncio.run(crowd())]
    assert statuses == [200, 200, 503, 503]


def test_answers_have_a_time_limit(site, state):
    state.go_on.clear()
    ask = TestClient(site(answer_s=0.05, concurrency=1), base_url=BASE)
    answer = classify(ask, png(0))
    state.go_on.set()
    assert answer.status_code == 504


def test_each_client_has_a_share_which_comes_back(site, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    application = site(rate=6, images=6)
    one = TestClient(application, base_url=BASE, client=("10.0.0.1", 1))
    other = TestClient(application, base_url=BASE, client=("10.0.0.2", 1))
    assert classify(one, *[png(0)] * 5).status_code == 200
    refused = classify(one, png(0), png(1))
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "10"  # one was used by asking; one more takes 10 s
    assert "6 a minute" in refused.json()["error"]
    assert classify(other, png(0)).status_code == 200
    now[0] += 10
    assert classify(one, png(0)).status_code == 200
    assert classify(one, png(0)).status_code == 429


def test_clients_of_one_network_share_and_few_are_remembered(monkeypatch):
    monkeypatch.setattr(limits, "_MOST_CLIENTS", 3)
    rate = Rate(1)
    rate.take("2001:db8::1", 1)
    with pytest.raises(WebError):
        rate.take("2001:db8::2", 1)
    for host in ("2001:db8:0:1::1", "10.0.0.1", "10.0.0.2"):
        rate.take(host, 1)
    rate.take("2001:db8::1", 1)  # forgotten
    assert len(rate._left) == 3
    Rate(0).take("10.0.0.1", 10**9)


HOSTS = {
    "127.0.0.1:8080": 200, "[::1]:8080": 200, "192.168.1.5": 200, "LOCALHOST": 200,
    "cats.example:80": 200, "evil.example": 400, "127.0.0.1.evil.example": 400, "": 400,
    "evil@127.0.0.1": 400, "[::1": 400, "localhost:8080@evil.example": 400,
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_only_known_hosts_are_answered(ask, host):
    answer = ask.get("/", headers={"Host": host})
    assert answer.status_code == HOSTS[host], answer.text
    assert answer.status_code == 200 or "--allowed_hosts" in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
    ],
)
def test_other_sites_cannot_send_pictures(ask, headers, status):
    assert classify(ask, png(0), headers=headers).status_code == status
    assert ask.get("/", headers=headers).status_code == 200


def test_every_answer_has_the_security_headers(ask, state):
    answers = [
        ask.get("/"), ask.get("/nothing"), ask.get("/static/page.css"), ask.get("/samples/0"),
        ask.delete("/"), ask.get("/healthz"), classify(ask, b"words"),
        ask.get("/", headers={"Host": "evil"}),
    ]  # fmt: skip
    state.error = RuntimeError("a bug")
    answers.append(classify(ask, png(0)))
    assert [each.status_code for each in answers] == [200, 404, 200, 200, 405, 200, 415, 400, 500]
    for each in answers:
        assert HEADERS.items() <= {k.title(): v for k, v in each.headers.items()}.items()
        assert "a bug" not in each.text
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answers[0].headers["cache-control"] == "no-store"


UNAVAILABLE = "UNAVAILABLE"
ERRORS = [
    (UNAVAILABLE, "connection refused", 503, "does not answer", "5"),
    (UNAVAILABLE, "128 requests are being answered; try again later", 503, "too much to do", "2"),
    ("NOT_FOUND", "details", 503, "no model “demo”", "5"),
    ("DEADLINE_EXCEEDED", "details", 504, "within 5 seconds", "5"),
    ("RESOURCE_EXHAUSTED", "details", 413, "too large", None),
    ("INTERNAL", "details", 502, "of no use", None),
    ("UNAUTHENTICATED", "details", 502, "of no use", None),
]


@pytest.mark.parametrize(("code", "details", "status", "words", "retry_after"), ERRORS)
def test_a_server_that_refuses_is_explained(ask, state, code, details, status, words, retry_after):
    assert ask.get("/healthz").status_code == 200
    state.error = ServerError(grpc.StatusCode[code], details)
    for answer in (classify(ask, png(0)), ask.get("/healthz"), ask.post("/", files=form(png(0)))):
        assert answer.status_code == status
        assert words in answer.text
        assert details not in answer.text
        assert answer.headers.get("retry-after") == retry_after
    assert ask.get("/").status_code == 200


def test_every_reason_of_an_export_has_words_for_people():
    from tfpipe.images import upload

    names = "EMPTY NO_IMAGE TOO_LARGE TOO_MANY_SCANS UNKNOWN_BMP DAMAGED".split()
    sentences = {str(errors.unreadable(getattr(upload, name))) for name in names}
    assert len(sentences) == len(names)
    assert not [each for each in sentences if each.startswith("The model cannot read")]
    assert "new words" in str(errors.unreadable("new words"))


def test_a_model_of_another_kind_is_no_damaged_picture(ask, state):
    state.classifies = False
    for answer in (classify(ask, png(0)), ask.get("/healthz")):
        assert answer.status_code == 502
        assert "does not classify pictures" in answer.json()["error"]


def test_a_version_with_other_classes_is_noticed(ask, state):
    health = {"status": "ok", "model": "demo", "version": 1, "heat_maps": True}
    assert ask.get("/healthz").json() == health | {"classes": ["night", "day"]}
    state.version = 2
    (found,) = classify(ask, png(255)).json()["results"]
    assert (found["version"], list(found["probabilities"])) == (2, ["night", "dusk", "day"])
    assert ask.get("/healthz").json()["version"] == 2


def test_the_page_escapes_what_a_file_is_called(ask):
    answer = ask.post("/", files=[("image", ("<b>.png", png(255)))])
    assert answer.status_code == 200
    assert "<b>.png" not in answer.text
    assert "&lt;b&gt;.png" in answer.text
    assert "100.0 %" in answer.text


def test_a_sample_is_asked_about_by_its_button(ask, state):
    keys = range(len(list(DRAWN.iterdir())))
    for key in keys:
        picture = ask.get(f"/samples/{key}")
        assert picture.headers["content-type"] == "image/jpeg"
        Image.open(io.BytesIO(picture.content)).verify()
    for key in (len(keys), "x", "-1", "²", "99999"):
        assert ask.get(f"/samples/{key}").status_code == 404
    fields = {"sample": (None, "7777")}
    assert ask.post("/", files=fields).status_code == 400


def test_samples_are_spread_over_a_folder(tmp_path):
    for number in range(100):
        (tmp_path / f"{number:03}.png").write_bytes(png(number))
    (tmp_path / "000.jpg").write_bytes(b"no picture")
    (tmp_path / "000.txt").write_bytes(png(0))
    (tmp_path / "001.bmp").write_bytes(b"BM".ljust(2000))  # too large
    samples = SamplePictures(tmp_path, max_bytes=1000)
    assert samples.names == [f"{100 * place // MOST:03}.png" for place in range(MOST)]
    (tmp_path / samples.names[0]).unlink()
    assert samples.read("0") is None
    assert samples.read("1").data == png(8)
    for bad in (tmp_path / "none", tmp_path / "000.txt"):
        with pytest.raises(UserError, match="--samples="):
            SamplePictures(bad, max_bytes=1000)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no JPEG"):
        SamplePictures(tmp_path / "empty", max_bytes=1000)


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0, "0.0 %"), (1e-9, "< 0.1 %"), (0.001, "0.1 %"), (0.9994, "> 99.9 %"), (1, "100.0 %")],
)
def test_a_percentage_is_never_all_or_nothing_where_it_is_not(probability, text):
    assert app.percent(probability) == text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rate=5", "--max_images=9"], "--rate=5"),
        (["--samples=/nowhere"], "--samples=/nowhere: No such"),
        (["--server=ftp://x"], "ftp://x"),
        (["--port=99999"], "--port=99999"),
        (["--max_request_mb=0"], "--max_request_mb=0"),
        (["--host=203.0.113.1"], "cannot listen at 203.0.113.1:8080"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, words, monkeypatch, capsys):
    code, _, err = run_command(webapp, flags, monkeypatch, capsys)
    (line,) = err.splitlines()
    assert code in (1, 2)
    assert words in line


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
def test_only_a_trusted_proxy_says_who_the_client_is(tmp_path, trusted):
    flags = ["--rate=1", "--max_images=1", f"--trusted_proxy={trusted}"]
    with running_page("127.0.0.1:1", tmp_path / "page", *flags) as process:
        statuses = [
            httpx.post(f"{process.url}/api/classify", headers={"X-Forwarded-For": client})
            .status_code for client in ("10.0.0.1", "10.0.0.2", "10.0.0.1")
        ]  # fmt: skip
    assert statuses == ([415, 415, 429] if trusted else [415, 429, 429])
