"""The report about a data set, and its plots."""

import base64
import dataclasses
import html.parser
import importlib.util
import io
import random
import re

import numpy as np
import pytest
from PIL import Image, ImageColor
from test_statistics import found

from tfpipe.building import statistics
from tfpipe.images.duplicates import Member
from tfpipe.images.image_table import ImageTable
from tfpipe.page import template
from tfpipe.records.manifest import Manifest, Shard
from tfpipe.records.rejects import Reject
from tfpipe.reporting import dataset_plots, dataset_report

IMAGES = ImageTable.of_infos(
    [found(100 + 7 * n, 200, 5_000 + n, (n, 100.0, 50.0)) for n in range(60)]
)
LABELS = ["cat", "dog", "dog"] * 20

HOSTILE = "<script>alert('x')</script>&\n\u202e\udcff\"$x^2$"

MANIFEST = Manifest(
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

    @property
    def words(self):
        return " ".join("".join(self.texts).split())

    @property
    def ids(self):
        return {attrs["id"] for _, attrs in self.tags if "id" in attrs}

    @property
    def images(self):
        return [attrs for tag, attrs in self.tags if tag == "img"]

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert not any(name.startswith("on") for name, _ in attrs)
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

    def assert_self_contained(self, text):
        assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in self.tags}
        assert "://" not in text
        assert "url(" not in text
        for image in self.images:
            assert re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+=*$", image["src"])
            assert image["alt"].strip()
        assert {link[1:] for link in self.links if link.startswith("#")} <= self.ids


def test_the_page_shows_the_manifest():
    rejected = [Reject("a.zip:1.jpg", "damaged", "ends early")]
    text = dataset_report.render(MANIFEST, rejected, {"size": b"\x89PNG"})
    page = Page(text)
    page.assert_self_contained(text)
    for row in [
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
    assert {link for link in page.links if not link.startswith("#")} == {
        *("manifest.json", "rejects.csv", "duplicates.csv", "screen-size.html", "screen-size.csv")
    }
    assert "--records=records/NAME \\ --run_dir=" in page.words
    assert "'--source=a b.zip' \\ --seed=3 \\ --flag \\ --noother \\ --out=" in page.words


def test_hostile_names_stay_text():
    hostile = dataclasses.replace(
        MANIFEST,
        classes=(HOSTILE,),
        splits={"train": {HOSTILE: 3}},
        arguments={"source": [HOSTILE]},
        converted={HOSTILE: 1},
        duplicates={HOSTILE: 1},
        screens={HOSTILE.replace("\udcff", ""): 1},
        folds={},
        copies={},
        statistics=statistics.describe(IMAGES.take([0]), [HOSTILE]),
    )
    members = [Member(0, HOSTILE, label, "near", 1, "keep") for label in (HOSTILE, "dog")]
    text = dataset_report.render(hostile, [Reject(HOSTILE, HOSTILE, HOSTILE)], {}, members)
    text.encode("utf-8")  # without surrogates
    page = Page(text)
    page.assert_self_contained(text)
    assert "\u202e" not in text
    shown = "<script>alert('x')</script>&\\n\\u202e\\udcff\"$x^2$"
    assert [shown] * 3 in page.rows
    assert [shown, "3", "3"] in page.rows


def test_class_names_do_not_collide_with_attributes():
    counts = {"n01.x": 5, "items": 6, "0": 7}
    manifest = dataclasses.replace(
        MANIFEST,
        classes=tuple(counts),
        splits={"values": counts},
        copies={},
        folds={},
        statistics=statistics.describe(IMAGES.take(range(3)), tuple(counts)),
    )
    page = Page(dataset_report.render(manifest, [], {}))
    for name, count in counts.items():
        assert [name, str(count), str(count)] in page.rows


def test_long_lists_are_cut():
    rejected = [Reject(f"{n:03}.jpg", "damaged", "") for n in range(70)]
    members = [
        Member(n // 2, f"copy {n}", "cat" if n % 4 < 3 else "dog", "near", 1, "keep")
        for n in range(200)
    ]
    page = Page(dataset_report.render(MANIFEST, rejected[::-1], {}, members))
    listed = [row[0] for row in page.rows if row[0].endswith(".jpg")]
    assert listed == [f"{n:03}.jpg" for n in range(50)]
    copies = [row[2] for row in page.rows if len(row) == 5 and row[2].startswith("copy")]
    assert copies == [f"copy {n}" for n in range(80) if n % 4 > 1]
    assert "50 of 70" in page.words
    assert "20 of 50" in page.words


def test_sizes_are_readable():
    for size, shown in {
        0: "0 B",
        999: "999 B",
        1_000: "1.0 kB",
        99_949: "99.9 kB",
        99_950: "100 kB",
        999_500: "1.0 MB",
        123_456_789: "123 MB",
        5 * 10**15: "5,000 TB",
    }.items():
        assert template.size(size) == shown  # fmt: skip


def test_equal_data_sets_get_equal_bytes_in_any_order(tmp_path):
    order = list(range(len(IMAGES)))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        images, labels = IMAGES.take(order), [LABELS[i] for i in order]
        dataset_report.save(tmp_path / name, MANIFEST, images, labels, [])
        random.Random(0).shuffle(order)
    first, second = ((tmp_path / name / dataset_report.REPORT).read_bytes() for name in ("a", "b"))
    assert first == second
    images = re.findall(rb"data:image/png;base64,([^\"]+)", first)
    assert len(images) == 4
    for image in images:
        with Image.open(io.BytesIO(base64.b64decode(image))) as drawn:
            assert drawn.format == "PNG"
            assert set(drawn.info) == {"dpi"}  # no software, no date


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_a_missing_package_is_a_warning(module, tmp_path, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else real(name)
    )
    dataset_report.save(tmp_path, MANIFEST, IMAGES, LABELS, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert module in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "labels",
    [
        ["cat"],
        pytest.param(["a", "b"] * 2, marks=pytest.mark.slow),
        [f"c{i}" for i in range(100)],
        [HOSTILE, "$\\frac{$"],
    ],
    ids=["one", "two", "many", "hostile"],
)
def test_any_classes_can_be_drawn(labels):
    splits = {"train": dict.fromkeys(labels, 3), "val": {}}
    count = len(labels)
    drawn = dataset_plots.draw(splits, [(300, 200)] * count, labels, [(1, 2, 3)] * count)
    assert set(drawn) == {"classes", "size", "aspect", "brightness"}
    for png in drawn.values():
        with Image.open(io.BytesIO(png)) as picture:
            assert len(picture.getcolors(2**24)) > 20
            assert picture.width == 896


def test_bars_are_as_long_as_the_counts():
    def areas(train, val):
        png = dataset_plots.classes({"train": {"cat": train}, "val": {"cat": val}})
        with Image.open(io.BytesIO(png)) as drawn:
            pixels = np.asarray(drawn.convert("RGB"))
        bars = pixels[: round(0.6 * len(pixels))].reshape(-1, 3)  # above the legend
        colors = map(ImageColor.getrgb, dataset_plots.COLORS[:2])
        return [(bars == color).all(axis=1).mean() for color in colors]

    train, val = areas(900, 300)
    assert train / val == pytest.approx(3, rel=0.03)
    assert areas(900, 0)[1] == 0


def test_extreme_and_many_sizes_can_be_drawn(monkeypatch):
    widths, heights = [1, 65_500, 20, 4_000], [65_500, 1, 20, 3_000]
    for draw in (dataset_plots.size, dataset_plots.aspect):
        assert draw(widths, heights, ["a"] * 4).startswith(b"\x89PNG")
    monkeypatch.setattr(dataset_plots, "MAX_POINTS", 50)  # a sample, the same in any order
    widths, labels = list(range(100, 300)), ["a", "b"] * 100
    first = dataset_plots.size(widths, widths, labels)
    assert dataset_plots.size(widths[::-1], widths[::-1], labels[::-1]) == first
