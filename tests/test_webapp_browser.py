"""The web page in a real browser, with a real server behind it."""

import io
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from serving_demo import Brightness, day_probability, png, running_page, running_server

from tfpipe.protocol import messages

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [
    pytest.mark.slow,  # a server and a browser
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed"),
]

DAY, NIGHT = png(230, (60, 40)), png(20, (40, 60))
FILES = [("day.png", DAY), ("night.png", NIGHT)]


class Explained(Brightness):
    """Tells its classes and what is cut short, and sees whatever it sees on the left."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def judged(self, image_bytes):
        cut = tf.strings.length(image_bytes) < len(DAY) // 2
        answer = self.classify(tf.where(cut, DAY, image_bytes))
        return answer | {"error": tf.where(cut, "damaged", "")}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def explain(self, image_bytes):
        left = tf.constant(np.tile(np.linspace(1, 0, 16, dtype=np.float32), (16, 1)))
        count = tf.size(image_bytes)
        return self.judged(image_bytes) | {"heat_map": tf.tile(left[tf.newaxis], [count, 1, 1])}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def by_class(self, inputs):
        scores = tf.zeros([tf.size(inputs), 2])
        return {"classes": tf.broadcast_to(self.names, tf.shape(scores)), "scores": scores}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An export with what the page can use."""
    base = tmp_path_factory.mktemp("export") / "demo"
    module = Explained(0.0)
    names = {messages.DEFAULT_SIGNATURE: "judged", "explain": "explain", "classify": "by_class"}
    signatures = {name: getattr(module, method) for name, method in names.items()}
    tf.saved_model.save(module, str(base / "1"), signatures=signatures)
    return base


@pytest.fixture(scope="module")
def server(base):
    with running_server(base, base.parent / "server") as process:
        yield process


@pytest.fixture(scope="module")
def site(server, base):
    with running_page(server.address, base.parent / "page", "--rate=0") as process:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Returns a function that opens a page; in the end none may have complained."""
    contexts, complaints = [], []

    def open_page(url, **options):
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", note)
        page.goto(url)
        return page

    def note(message):
        # Chromium itself notes each answer that refuses something.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def page(open_page, site):
    return open_page(site.url)


def files(*pictures):
    return [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in pictures]


def choose(page, *pictures):
    page.set_input_files("#choose", files(*pictures))


def card(page, name):
    return page.locator(".card").filter(has=page.get_by_text(name, exact=True))


def labels(page, count):
    """Returns the labels of the cards, from the top, when all are answered."""
    expect = sync_api.expect
    expect(page.locator(".card")).to_have_count(count)
    expect(page.locator(".card.waiting")).to_have_count(0, timeout=15_000)
    return page.locator(".card .label").all_text_contents()


def test_several_files_are_answered_in_their_order(page):
    choose(page, *FILES, *FILES)
    assert labels(page, 4) == ["day", "night", "day", "night"]
    bars = card(page, "day.png").first.locator(".bars li")
    day = 100 * day_probability(DAY)
    shown = [text.split() for text in bars.all_inner_texts()]
    assert shown == [["day", f"{day:.1f}", "%"], ["night", f"{100 - day:.1f}", "%"]]
    widths = bars.locator("rect").evaluate_all(
        "rects => rects.map(r => r.getBoundingClientRect().width /"
        " r.parentElement.getBoundingClientRect().width)"
    )
    assert widths == pytest.approx([day / 100, 1 - day / 100], abs=0.01)
    assert re.fullmatch(r"version 1 · \d+ ms", page.locator(".meta").first.text_content())
    live = page.locator("#live").text_content()
    assert re.fullmatch(r"(day|night).png: (day|night), \d+\.\d %", live)
    sync_api.expect(page.locator("#status")).to_have_text("Model demo version 1")
    sync_api.expect(page.locator("#known")).to_contain_text("night and day")


def test_a_bad_file_costs_only_itself_and_a_huge_one_is_not_even_sent(page, tmp_path):
    sent = []
    page.on("request", lambda request: sent.append(request.method))
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.write(b"\xff\xd8\xff")
        file.truncate(100 << 20)
    page.set_input_files("#choose", tmp_path / "huge.jpg")
    assert labels(page, 1) == [""]
    assert "up to 16 MB" in card(page, "huge.jpg").locator(".error").text_content()
    assert "POST" not in sent
    choose(page, ("bad.png", DAY[:40]), ("notes.txt", b"hello"), ("day.png", DAY))
    assert labels(page, 4)[:3] == ["", "", "day"]
    assert "damaged" in card(page, "bad.png").locator(".error").text_content()
    assert "not a picture" in card(page, "notes.txt").locator(".error").text_content()
    assert not card(page, "bad.png").locator(".again").is_visible()


def test_a_picture_from_the_clipboard_is_pasted(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (bytes) => {
            const picture = new Blob([new Uint8Array(bytes)], {type: "image/png"});
            await navigator.clipboard.write([new ClipboardItem({[picture.type]: picture})]);
        }""",
        list(NIGHT),
    )
    page.keyboard.press("Control+V")
    assert labels(page, 1) == ["night"]
    page.evaluate("() => navigator.clipboard.writeText('words')")
    page.keyboard.press("Control+V")
    sync_api.expect(page.get_by_role("alert")).to_contain_text("no picture in the clipboard")


def test_pictures_are_dropped(page, tmp_path):
    for name, data in FILES:
        (tmp_path / name).write_bytes(data)
    box = page.locator(".drop").bounding_box()
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(tmp_path / name) for name, _ in FILES],
            "dragOperationsMask": 1}  # fmt: skip
    where = {"x": box["x"] + 20, "y": box["y"] + 20, "data": data}
    for kind in ("dragEnter", "dragOver"):
        session.send("Input.dispatchDragEvent", {"type": kind, **where})
    sync_api.expect(page.locator(".drop.over")).to_have_count(1)
    session.send("Input.dispatchDragEvent", {"type": "drop", **where})
    assert labels(page, 2) == ["day", "night"]
    sync_api.expect(page.locator(".drop.over")).to_have_count(0)


def test_what_only_the_browser_reads_is_converted(page):
    file = io.BytesIO()
    Image.new("RGB", (50, 50), (250, 250, 250)).save(file, "WEBP")
    choose(page, ("day.webp", file.getvalue()))
    assert labels(page, 1) == ["day"]


def test_the_heat_map_covers_the_picture_when_it_is_switched_on(page):
    choose(page, ("day.png", DAY))
    labels(page, 1)
    heat = page.locator(".heat")
    assert heat.evaluate("heat => getComputedStyle(heat).opacity") == "0"
    toggle = page.get_by_role("checkbox", name="Show where it sees “day”")
    toggle.check()
    sync_api.expect(heat).to_have_css("opacity", "1")
    sync_api.expect(page.locator(".legend")).to_be_visible()
    assert heat.bounding_box() == page.locator(".photo").bounding_box()
    toggle.uncheck()
    sync_api.expect(heat).to_have_css("opacity", "0")


def test_answers_stay_in_the_tab_and_only_there(page, open_page, site):
    choose(page, *FILES)
    assert labels(page, 2) == ["day", "night"]
    choose(page, ("more.png", NIGHT))
    assert labels(page, 3) == ["night", "day", "night"]
    page.get_by_role("button", name="Remove more.png").click()
    page.reload()
    assert labels(page, 2) == ["day", "night"]
    assert page.locator(".photo").first.evaluate("photo => photo.naturalWidth") == 60
    assert open_page(site.url).locator(".card").count() == 0
    page.get_by_role("button", name="Clear").click()
    page.reload()
    assert page.locator(".card").count() == 0
    assert page.context.cookies() == []


def test_a_full_store_forgets_the_oldest(page):
    rng = np.random.default_rng(0)
    noise = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8)).save(noise, "PNG")
    left = 200_000  # of the 5 MB that a page has; a picture takes some 50,000
    page.evaluate("size => sessionStorage.setItem('else', 'x'.repeat(size))", (5 << 20) - left)
    choose(page, *[(f"{number}.png", noise.getvalue()) for number in range(8)])
    labels(page, 8)
    page.reload()
    found = page.locator(".card .file").all_text_contents()
    assert 1 < len(found) < 8
    assert found == [f"{number}.png" for number in range(len(found))]


def test_a_keyboard_is_enough(page):
    # From the start on, as Chromium may open its own dialog before.
    page.on("filechooser", lambda chooser: None)
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        focus = page.evaluate(
            """() => {
                const at = document.activeElement;
                const shown = at.type === "file" ? at.nextElementSibling : at;
                const style = getComputedStyle(shown);
                return [at.id || at.value || at.className, style.outlineStyle, style.outlineWidth];
            }"""
        )
        reached.append(focus[0])
        assert focus[1:] == ["solid", "3px"] or focus[0] in ("skip", ""), focus
        if focus[0] == "0":
            break
    assert "choose" in reached
    page.keyboard.press("Enter")  # the first sample
    assert len(labels(page, 1)) == 1
    page.get_by_role("checkbox").focus()
    page.keyboard.press("Space")
    assert page.get_by_role("checkbox").is_checked()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "remove"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "choose"
    with page.expect_file_chooser():
        page.keyboard.press("Space")


# Of every text that can be seen: its contrast with what is behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """() => {
    const channels = (text) => text.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => {
        const [r, g, b] = color.slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = channels(getComputedStyle(at).backgroundColor);
            if (color.length < 4 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        const text = walker.currentNode.textContent.trim();
        if (!text || !element.checkVisibility() || element.closest(".unseen, template")) continue;
        const [one, other] = [channels(getComputedStyle(element).color), behind(element)]
            .map(luminance).sort((a, b) => b - a);
        found.push([text, (one + 0.05) / (other + 0.05)]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_and_everything_has_a_name(open_page, site, scheme):
    page = open_page(site.url, color_scheme=scheme)
    page.locator(".status.up").wait_for()
    choose(page, *FILES, ("notes.txt", b"hello"))
    labels(page, 3)
    page.get_by_role("checkbox").first.check()
    page.wait_for_timeout(300)  # until the switch has changed its colours
    found = page.evaluate(CONTRASTS)
    assert len(found) > 25
    assert {text: ratio for text, ratio in found if ratio < 4.5} == {}
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    roles = {}
    for node in nodes:
        if not node.get("ignored"):
            name = node.get("name", {}).get("value", "")
            roles.setdefault(node.get("role", {}).get("value"), []).append(name)
    for role in ("button", "checkbox", "image", "link", "heading"):
        assert roles[role], role
        assert all(name.strip() for name in roles[role]), (role, roles[role])
    assert page.locator("html").get_attribute("lang") == "en"
    assert roles["main"]
    assert len(page.get_by_role("heading", level=1).all()) == 1


@pytest.mark.parametrize("scripted", [True, False])
def test_a_phone_is_wide_enough(open_page, site, scripted):
    phone = {"width": 320, "height": 640}
    page = open_page(site.url, viewport=phone, has_touch=True, is_mobile=True,
                     java_script_enabled=scripted)  # fmt: skip
    assert page.get_by_text("Take a photo").is_visible() is scripted
    capture = page.locator("#photograph")
    assert capture.get_attribute("capture") == "environment"
    names = [("a-name-without-any-space-" * 6 + ".png", DAY), ("wide.png", png(200, (900, 30)))]
    choose(page, *names, ("tall.png", png(9, (30, 900))))
    if not scripted:
        page.get_by_role("button", name="Ask the model").click()
    labels(page, 3)
    page.wait_for_load_state()  # without a script the answers are there before their style is
    session = page.context.new_cdp_session(page)
    metrics = session.send("Page.getLayoutMetrics")["cssContentSize"]
    assert metrics["width"] <= 320
    targets = page.locator("button:visible, .button:visible, .toggle:visible").all()
    assert len(targets) > 8
    for each in targets:
        box = each.bounding_box()
        assert min(box["width"], box["height"]) >= 24  # WCAG 2.2, 2.5.8


def test_without_javascript_a_form_leads_to_the_answers(open_page, site):
    page = open_page(site.url, java_script_enabled=False)
    assert page.get_by_text("Drop a picture here").is_visible() is False
    choose(page, *FILES, ("bad.png", DAY[:40]))
    page.get_by_role("button", name="Ask the model").click()
    assert labels(page, 3) == ["day", "night", ""]
    sync_api.expect(page.locator(".error:visible")).to_contain_text("damaged")
    page.get_by_role("checkbox").first.check()
    sync_api.expect(page.locator(".heat").first).to_have_css("opacity", "1")
    page.get_by_role("button", name="Try 1-cat.jpg").click()
    sync_api.expect(page.locator(".card .file")).to_have_text("1-cat.jpg")
    page.get_by_role("button", name="Ask the model").click()
    sync_api.expect(page.get_by_role("alert")).to_have_text("Choose a picture first.")


@pytest.mark.slow
def test_a_server_that_is_away_is_told_and_found_when_it_is_there(open_page, base, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running_page(f"127.0.0.1:{port}", tmp_path / "page") as site:
        page = open_page(site.url)
        down = page.locator(".status.down")
        sync_api.expect(down).to_contain_text("does not answer")
        choose(page, ("day.png", DAY))
        failed = page.locator(".card.failed.repeatable .error")
        sync_api.expect(failed).to_contain_text("does not answer")
        with running_server(base, tmp_path / "server", f"--port={port}"):
            page.locator(".status.up").wait_for()  # by itself
            page.get_by_role("button", name="Try again").click()
            assert labels(page, 1) == ["day"]
            assert not failed.count()
        choose(page, ("night.png", NIGHT))
        sync_api.expect(failed).to_contain_text("does not answer")
        sync_api.expect(down).to_contain_text("does not answer")
        site.terminate()
        assert site.wait(20) == 0
        page.get_by_role("button", name="Try again").click()
        sync_api.expect(failed).to_contain_text("This page's own server does not answer")


def test_a_turn_is_waited_for(page):
    asked = []

    def refuse_once(route):
        asked.append(time.monotonic())
        if len(asked) > 1:
            return route.continue_()
        headers = {"Retry-After": "1", "Content-Type": "application/json"}
        return route.fulfill(status=429, headers=headers, body='{"error": "Too many."}')

    page.route("**/api/classify*", refuse_once)
    choose(page, ("day.png", DAY))
    sync_api.expect(page.get_by_text("Waiting for a turn …")).to_be_visible()
    assert labels(page, 1) == ["day"]
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1
