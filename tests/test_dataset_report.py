"""The report page and its plots."""

import base64
import dataclasses
import html.parser
import importlib.util
import io
import random
import re

import numpy as np
import pytest
from PIL import Image
from test_statistics import found

from tfpipe.building import statistics
from tfpipe.images.duplicates import Member
from tfpipe.page import template
from tfpipe.records.manifest import Manifest, Shard
from tfpipe.records.rejects import Reject
from tfpipe.reporting import dataset_plots as plots
from tfpipe.reporting import dataset_report as report

IMAGES = [found(100 + 7 * n, 200, 5_000 + n, (n, 100.0, 50.0)) for n in range(60)]
LABELS = ["cat", "dog", "dog"] * 20

HOSTILE = "<script>alert('x')</script>&\n\u202e\udcff\"$x^2$"

DESCRIBED = Manifest(
    arguments={"source": ["a b.zip"], "seed": 3, "classes": "", "flag": True, "other": False},
    input_fingerprint="1" * 64,
    classes=("cat", "dog"),
    splits={"train": {"cat": 1_234_567, "dog": 30}, "val": {"cat": 4, "dog": 10}},
    accepted=1_234_605,
    converted={"cmyk": 11, "rotated": 2},
    rejected={"damaged": 61},
    fingerprint="a" * 64,
    mean_record_bytes=10.0,
    shards=(Shard("train-00000-of-00001.tfrecord", "train", 1_234_597, 12_345_678, "0" * 64),),
    copies={"train": {"dog": 6}},
    folds={"0": {"cat": 17, "dog": 18}, "1": {"cat": 19}},
    duplicates={"clusters": 2, "images": 5, "conflicts": 1},
    screens={"size": 23},
    statistics=statistics.describe(IMAGES, LABELS),
)


class Page(html.parser.HTMLParser):
    """The tables, links, texts and tags of a page; fails for tags that do not match."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.rows, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "a":
            self.links.append(dict(attrs)["href"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += " ".join(data.split())


def render(described=DESCRIBED, rejected=(), drawn=None, **more):
    return report.render(described, rejected, drawn or {}, **more)


def test_the_page_shows_what_the_manifest_says():
    page = Page(render(rejected=[Reject("a.zip:1.jpg", "damaged", "ends early")]))
    for row in [
        ["Class", "train", "val", "All", "Copies among them", "Fold 0", "Fold 1"],
        ["cat", "1,234,567", "4", "1,234,571", "0", "17", "19"],
        ["dog", "30", "10", "40", "6", "18", "0"],
        ["All", "1,234,597", "14", "1,234,611", "6", "35", "19"],
        ["cmyk", "11"],
        ["damaged", "61"],
        ["a.zip:1.jpg", "damaged", "ends early"],
        ["clusters", "2"],
        ["size", "23", "screen-size.html", "screen-size.csv"],
        ["train-00000-of-00001.tfrecord", "train", "1,234,597", "12.3 MB"],
        # 60 widths, 100 to 513 in steps of 7: the 5 % quantile is 100 + 0.05 * 413 = 120.65.
        ["Width, pixels", "100", "121", "203", "306", "410", "492", "513"],
    ]:
        assert row in page.rows
    local = {link for link in page.links if not link.startswith("#")}
    assert local == {
        *("manifest.json", "rejects.csv", "duplicates.csv", "screen-size.html", "screen-size.csv")
    }
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {link[1:] for link in page.links if link.startswith("#")} <= ids
    text = "".join(page.texts)
    assert "python -m tfpipe.train \\\n    --records=records/NAME \\\n    --run_dir=" in text
    assert (
        "python -m tfpipe.build_records \\\n    '--source=a b.zip' \\\n    --seed=3 \\\n"
        "    --flag \\\n    --noother \\\n    --out=records/NAME\n"
    ) in text


def test_the_page_needs_nothing_else():
    text = render(drawn={"size": b"\x89PNG"})
    page = Page(text)
    (image,) = [attrs for tag, attrs in page.tags if tag == "img"]
    assert image["src"] == "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    assert image["alt"]
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert "://" not in text
    assert "url(" not in text


def test_hostile_names_stay_text():
    hostile = dataclasses.replace(
        DESCRIBED,
        classes=(HOSTILE,),
        splits={"train": {HOSTILE: 3}},
        arguments={"source": [HOSTILE]},
        converted={HOSTILE: 1},
        duplicates={HOSTILE: 1},
        screens={HOSTILE.replace("\udcff", ""): 1},
        folds={},
        copies={},
        statistics=statistics.describe([IMAGES[0]], [HOSTILE]),
    )
    members = [Member(0, HOSTILE, label, "near", 1, "keep") for label in (HOSTILE, "dog")]
    rejected = [Reject(HOSTILE, HOSTILE, HOSTILE)]
    text = report.render(hostile, rejected, {}, members=members)
    text.encode("utf-8")  # without surrogates
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "\u202e" not in text
    shown = "<script>alert('x')</script>&\\n\\u202e\\udcff\"$x^2$"
    assert [shown] * 3 in page.rows
    assert [shown, "3", "3"] in page.rows


def test_a_dotted_class_is_no_attribute():
    names = ("n01.x", "items", "0")
    counts = {"n01.x": 5, "items": 6, "0": 7}
    described = dataclasses.replace(
        DESCRIBED,
        classes=names,
        splits={"values": counts},
        copies={},
        folds={},
        statistics=statistics.describe(IMAGES[:3], names),
    )
    page = Page(render(described))
    for name, count in counts.items():
        assert [name, str(count), str(count)] in page.rows


def test_only_the_first_of_many_are_listed():
    rejected = [Reject(f"{n:03}.jpg", "damaged", "") for n in range(70)]
    members = [
        Member(n // 2, f"copy {n}", "cat" if n % 4 < 3 else "dog", "near", 1, "keep")
        for n in range(200)
    ]
    page = Page(render(rejected=rejected[::-1], members=members))
    listed = [row[0] for row in page.rows if row[0].endswith(".jpg")]
    assert listed == [f"{n:03}.jpg" for n in range(50)]
    copies = [row[2] for row in page.rows if len(row) == 5 and row[2].startswith("copy")]
    assert copies == [f"copy {n}" for n in range(80) if n % 4 > 1]
    assert "The first 50 of 70 rejected files" in "".join(page.texts)
    assert "The first 20 of 50 sets of duplicates" in "".join(page.texts)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_500, "1.0 MB"),
        (123_456_789, "123 MB"),
        (5 * 10**15, "5,000 TB"),
    ],
)
def test_sizes_are_for_people(size, shown):
    assert template.size(size) == shown


def test_colours():
    assert template.color([255, 127.6, 0]) == "#ff8000"


def test_saved_twice_the_bytes_are_the_same(tmp_path):
    order = list(range(len(IMAGES)))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        images, labels = [IMAGES[i] for i in order], [LABELS[i] for i in order]
        report.save(tmp_path / name, DESCRIBED, images, labels, [])
        random.Random(0).shuffle(order)
    first, second = ((tmp_path / name / report.REPORT).read_bytes() for name in ("a", "b"))
    assert first == second
    images = re.findall(rb"data:image/png;base64,([^\"]+)", first)
    assert len(images) == 4
    for image in images:
        content = base64.b64decode(image)
        with Image.open(io.BytesIO(content)) as drawn:
            assert drawn.format == "PNG"
            assert set(drawn.info) == {"dpi"}  # no software, no date
            assert len(drawn.getcolors(2**24)) > 20


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_without_an_optional_package_there_is_a_warning(module, tmp_path, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else real(name)
    )
    report.save(tmp_path, DESCRIBED, IMAGES, LABELS, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert module in line
    assert not list(tmp_path.iterdir())


DRAWINGS = {
    "size": lambda labels: plots.size([300] * len(labels), [200] * len(labels), labels),
    "aspect": lambda labels: plots.aspect([300] * len(labels), [200] * len(labels), labels),
    "brightness": lambda labels: plots.brightness([(1, 2, 3)] * len(labels), labels),
    "classes": lambda labels: plots.classes({"train": dict.fromkeys(labels, 3), "val": {}}),
}


@pytest.mark.parametrize(
    "labels",
    [["cat"], ["a", "b"] * 2, [f"c{i}" for i in range(100)], [HOSTILE, "$\\frac{$"]],
    ids=["one", "two", "many", "hostile"],
)
@pytest.mark.parametrize("name", DRAWINGS)
def test_any_classes_can_be_drawn(name, labels):
    with Image.open(io.BytesIO(DRAWINGS[name](labels))) as drawn:
        assert len(drawn.getcolors(2**24)) > 20
        assert drawn.width == 896


def colour_share(png, color):
    """Returns the share of the pixels that have exactly this colour."""
    with Image.open(io.BytesIO(png)) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    return float((pixels == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=1).mean())


def test_bars_are_as_long_as_the_counts():
    def areas(train, val):
        png = plots.classes({"train": {"cat": train}, "val": {"cat": val}})
        with Image.open(io.BytesIO(png)) as drawn:
            bars = drawn.convert("RGB").crop((0, 0, drawn.width, round(0.6 * drawn.height)))
        out = io.BytesIO()  # the upper part, without the key
        bars.save(out, "PNG")
        return [colour_share(out.getvalue(), color) for color in plots.COLORS[:2]]

    train, val = areas(900, 300)
    assert train / val == pytest.approx(3, rel=0.03)
    assert areas(900, 0)[1] == 0


def test_extreme_sizes_can_be_drawn():
    widths, heights = [1, 65_500, 20, 4_000], [65_500, 1, 20, 3_000]
    for draw in (plots.size, plots.aspect):
        assert draw(widths, heights, ["a"] * 4).startswith(b"\x89PNG")


def test_many_sizes_are_sampled_alike_in_any_order(monkeypatch):
    monkeypatch.setattr(plots, "MAX_POINTS", 50)
    widths, labels = list(range(100, 300)), ["a", "b"] * 100
    first = plots.size(widths, widths, labels)
    assert plots.size(widths[::-1], widths[::-1], labels[::-1]) == first
    monkeypatch.setattr(plots, "MAX_POINTS", 500)
    assert plots.size(widths, widths, labels) != first
