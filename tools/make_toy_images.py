"""Draws cartoon cats and dogs, named as Kaggle names its Dogs vs. Cats files.

A small stand-in for the real data, for demos and tests that must not download anything:

    OUT/train/cat.0.jpg ...    labelled images, half of them cats
    OUT/test1/1.jpg ...        images without a label, cats and dogs
    OUT/toy.json               the flags they were drawn with

Both classes draw sizes, colours, furs, poses and backdrops in the same way: only the shapes of
ears, eyes, muzzle and tail tell them apart. The same seed gives the same images, and a higher
count only adds to them. Nothing is drawn if the folder has the images already.
"""

import dataclasses
import io
import pathlib

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from tfpipe.core import cli, options, storage, terminal
from tfpipe.core.errors import UserError

MARKER = "toy.json"
CLASSES = ("cat", "dog")
UNLABELLED = "test"
STREAMS = {"cat": 0, "dog": 1, UNLABELLED: 2}  # part of each image's own seed

SUPERSAMPLE = 2  # animals are drawn this much larger, then averaged down, for smooth edges
CIRCLE = np.array([(np.cos(t), np.sin(t)) for t in np.linspace(0, 2 * np.pi, 40)])
LONG_SIDE, MIN_SIDE = (250, 500), 150  # pixels
JPEG_QUALITY = (70, 95)
HEAD_RADIUS = (0.26, 0.33)  # of the short side
OFF_CENTRE = 0.06  # of each side, at most
MAX_TILT_DEG = 15
GREY, BODY, COLLAR, GROUND, LANDSCAPE = 0.08, 0.75, 0.4, 0.5, 0.65  # shares of the images

WHITE, INK, PINK = (250, 247, 240), (38, 30, 32), (234, 136, 150)
FURS = ("#de8c42", "#e2b468", "#966430", "#623f30", "#eedab8", "#f4f0e8", "#969699", "#3e383a")
IRISES = ("#80b054", "#deac3c", "#60a0cc", "#8c5a32")
PATTERNS = ("plain", "stripes", "patch", "spots")
BACKDROPS = ("plain", "gradient", "stripes", "blobs", "speckles")

Color = tuple[int, int, int]
Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags."""

    out: str = options.option("folder to write; it appears whole or not at all")
    count: int = options.option("labelled images, half of them cats; at least 2", 600, minimum=2)
    test_count: int = options.option("images without a label; 0 or more", 12, minimum=0)
    seed: int = options.option("seed of every image; 0 or more", 0, minimum=0)


class Pen:
    """Draw outlined shapes; coordinates are in head radii from the centre of the head, y down.

    Args:
        image: the picture to draw on, SUPERSAMPLE times its final size.
        rng: chooses the pose: where the head is, how large, how tilted, whether mirrored.
    """

    def __init__(self, image: Image.Image, rng: np.random.Generator):
        self._draw = ImageDraw.Draw(image)
        self._radius = min(image.size) * rng.uniform(*HEAD_RADIUS)
        self._centre = np.multiply(image.size, 0.5 + rng.uniform(-OFF_CENTRE, OFF_CENTRE, size=2))
        self._centre[1] = max(self._centre[1], 1.45 * self._radius)  # room for the ears
        tilt = np.deg2rad(rng.uniform(-MAX_TILT_DEG, MAX_TILT_DEG))
        self._matrix = self._radius * _turn(tilt) * [[rng.choice([-1, 1])], [1]]
        self._edge = rng.uniform(0.02, 0.06)

    def ellipse(self, centre: Point, radii: Point, fill: Color, tilt_deg=0.0, edge=True) -> None:
        """Fill an ellipse, turned clockwise by `tilt_deg`."""
        turn = _turn(np.deg2rad(tilt_deg))
        for grown, color in [(self._edge, _shade(fill)), (0, fill)] if edge else [(0, fill)]:
            points = (CIRCLE * np.add(radii, grown)) @ turn + centre
            self._draw.polygon(self._place(points), color)

    def polygon(self, points: list[Point], fill: Color, edge=True) -> None:
        """Fill a polygon."""
        if edge:
            self._line([*points, points[0]], 2 * self._edge, _shade(fill))
        self._draw.polygon(self._place(points), fill)

    def curve(self, start: Point, bend: Point, end: Point, width: float, fill: Color) -> None:
        """Draw a quadratic Bezier curve, without an outline."""
        share = np.linspace(0, 1, 12)[:, None]
        weights = np.concatenate([(1 - share) ** 2, 2 * share * (1 - share), share**2], axis=1)
        self._line(weights @ [start, bend, end], width, fill)

    def _line(self, points: list[Point] | np.ndarray, width: float, fill: Color) -> None:
        pixels, places = max(1, round(width * self._radius)), self._place(points)
        self._draw.line(places, fill, pixels, joint="curve")
        for end in (places[:2], places[-2:]):
            self._draw.circle(end, pixels / 2, fill)

    def _place(self, points: list[Point] | np.ndarray) -> list[float]:
        return (np.asarray(points) @ self._matrix + self._centre).ravel().tolist()


def draw_animal(image: Image.Image, kind: str, rng: np.random.Generator) -> None:
    """Draw a cat or a dog onto a picture of SUPERSAMPLE times its final size."""
    pen = Pen(image, rng)
    base, second = (_vary(FURS[i], rng) for i in rng.choice(len(FURS), size=2, replace=False))
    pattern, ear = rng.choice(PATTERNS), second if rng.random() < 0.4 else _mix(base, INK, 0.3)
    if rng.random() < BODY:
        _draw_body(pen, kind, base, second, pattern, rng)
    if rng.random() < COLLAR:
        pen.ellipse((0, 0.72), (0.66, 0.36), _random_color(rng))
    if kind == "cat":
        _draw_cat_ears(pen, ear, rng)
    head = rng.uniform(0.88, 1.05), rng.uniform(0.8, 0.95)
    pen.ellipse((0, 0), head, base)
    _draw_pattern(pen, (0, 0), head, second, pattern, rng)
    if kind == "dog":
        _draw_dog_ears(pen, ear, rng)
    x, y = rng.uniform(-0.1, 0.1), rng.uniform(-0.06, 0.06)  # turns the face a little
    _draw_eyes(pen, kind, x, y - 0.18, rng)
    draw_muzzle = _draw_cat_muzzle if kind == "cat" else _draw_dog_muzzle
    draw_muzzle(pen, 1.5 * x, y, _mix(second, WHITE, rng.uniform(0, 0.6)), rng)


def _draw_body(pen: Pen, kind: str, base: Color, second: Color, pattern: str, rng) -> None:
    bend, width = ((2.2, 3.2), 0.26) if kind == "cat" else ((1.2, 2.2), 0.36)
    tip = (rng.uniform(1.4, 1.7), 1.55)
    for grown, color in ((0.08, _shade(base)), (0, base)):
        pen.curve((0.6, 2.6), bend, tip, width + grown, color)
    body = (0, 1.95), (rng.uniform(0.8, 1), 1.35)
    pen.ellipse(*body, base)
    _draw_pattern(pen, *body, second, pattern, rng)
    pen.ellipse((0, 1.6), (0.42, 0.6), _mix(base, WHITE, 0.4), edge=False)
    for side in (-1, 1):
        pen.ellipse((0.36 * side, 2.5), (0.24, 0.8), base)
        pen.ellipse((0.38 * side, 3.2), (0.32, 0.2), second)


def _draw_pattern(pen: Pen, centre: Point, radii: Point, fill: Color, pattern: str, rng) -> None:
    """Draw a fur pattern that stays within the ellipse."""

    def at(angle_deg: float, share: float) -> Point:
        """Return the point at this angle, 0 for up, and this share of the radius."""
        angle = np.deg2rad(angle_deg)
        return tuple(np.array([np.sin(angle), -np.cos(angle)]) * radii * share + centre)

    if pattern == "stripes":
        for angle in (-98, -76, -24, 0, 24, 76, 98):
            corners = [at(angle - 5, 0.98), at(angle + 5, 0.98), at(angle, rng.uniform(0.5, 0.7))]
            pen.polygon(corners, fill, edge=False)
    elif pattern == "patch":
        pen.ellipse(at(rng.choice([-50, 50]), 0.52), np.multiply(radii, 0.4), fill, edge=False)
    elif pattern == "spots":
        for angle in rng.uniform(0, 360, size=7):
            size = rng.uniform(0.07, 0.15)
            pen.ellipse(at(angle, rng.uniform(0.3, 0.8)), (size, size), fill, edge=False)


def _draw_cat_ears(pen: Pen, fill: Color, rng: np.random.Generator) -> None:
    height, lean = rng.uniform(1.3, 1.55), rng.uniform(0.6, 0.9)
    for side in (-1, 1):
        ear = np.array([(0.95 * side, -0.2), (lean * side, -height), (0.15 * side, -0.75)])
        inner = ear.mean(axis=0) + 0.55 * (ear - ear.mean(axis=0))
        pen.polygon(ear.tolist(), fill)
        pen.polygon(inner.tolist(), _mix(PINK, fill, 0.3), edge=False)


def _draw_dog_ears(pen: Pen, fill: Color, rng: np.random.Generator) -> None:
    length, width, flare = rng.uniform(0.6, 0.85), rng.uniform(0.28, 0.38), rng.uniform(8, 35)
    down, out = length * np.cos(np.deg2rad(flare)), length * np.sin(np.deg2rad(flare))
    for side in (-1, 1):
        pen.ellipse(((0.75 + 0.7 * out) * side, down - 0.55), (width, length), fill, -flare * side)


def _draw_eyes(pen: Pen, kind: str, x: float, y: float, rng: np.random.Generator) -> None:
    iris = _vary(IRISES[rng.integers(len(IRISES))], rng)
    apart, size = rng.uniform(0.36, 0.44), rng.uniform(0.17, 0.22)
    for eye, side in ((x - apart, -1), (x + apart, 1)):
        # As much white and black in both, so that no histogram tells them apart.
        wide, high, tilt = (1.15, 0.95, 12 * side) if kind == "cat" else (1, 1.1, 0)
        pupil = (0.35, 0.8) if kind == "cat" else (0.53, 0.53)
        pen.ellipse((eye, y), (wide * size, high * size), WHITE, tilt)
        pen.ellipse((eye, y), (0.8 * wide * size, 0.85 * high * size), iris, tilt, edge=False)
        pen.ellipse((eye, y), np.multiply(pupil, size), INK, edge=False)
        pen.ellipse((eye + 0.2 * size, y - 0.35 * size), (0.2 * size,) * 2, WHITE, edge=False)


def _draw_cat_muzzle(pen: Pen, x: float, y: float, fill: Color, rng: np.random.Generator) -> None:
    y, half = y + 0.36, rng.uniform(0.09, 0.13)
    for side in (-1, 1):
        pen.ellipse((x + 0.15 * side, y + 0.08), (0.2, 0.15), fill, edge=False)
        for rise in (-0.3, 0, 0.3):
            tip = (x + rng.uniform(0.95, 1.25) * side, y + rise)
            pen.curve((x + 0.3 * side, y + 0.05), (x + 0.6 * side, y + 0.5 * rise), tip, 0.03, INK)
    pen.polygon([(x - half, y - 0.12), (x + half, y - 0.12), (x, y + 0.02)], PINK)
    _draw_smile(pen, x, y + 0.02, 0.16)


def _draw_dog_muzzle(pen: Pen, x: float, y: float, fill: Color, rng: np.random.Generator) -> None:
    y, tongue = y + 0.42, rng.choice([0, 0.3, 0.45])
    pen.ellipse((x + 0.05, y + tongue), (0.15, 0.3), PINK)  # hidden if it is short
    pen.ellipse((x, y), (rng.uniform(0.5, 0.6), rng.uniform(0.4, 0.5)), fill)
    nose = _mix(INK, fill, rng.uniform(0, 0.4))
    pen.ellipse((x, y - 0.16), (rng.uniform(0.22, 0.3), rng.uniform(0.15, 0.2)), nose)
    _draw_smile(pen, x, y + 0.1, 0.24)


def _draw_smile(pen: Pen, x: float, y: float, size: float) -> None:
    for side in (-1, 1):
        pen.curve((x, y - 0.05), (x, y + size), (x + size * side, y + 0.5 * size), 0.04, INK)


def draw_backdrop(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw the backdrop at the final size: two colours, a ground, some shapes."""
    width, height = size
    angle, kind = rng.uniform(0, np.pi), rng.choice(BACKDROPS)
    mask = Image.new("L", size)
    if kind in ("gradient", "stripes"):
        along = np.linspace(0, np.sin(angle), height, dtype=np.float32)[:, None]
        along = along + np.linspace(0, np.cos(angle), width, dtype=np.float32)
        if kind == "stripes":
            along = 0.5 + 0.5 * np.sin(along * np.float32(rng.uniform(15, 60)))
        mask = Image.fromarray((np.clip(along, 0, 1) * 255).astype(np.uint8))
    elif kind in ("blobs", "speckles"):
        cells = rng.integers(0, 256, (5, 6) if kind == "blobs" else (40, 50), dtype=np.uint8)
        mask = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)
    color = _random_color(rng)
    other = _mix(color, _random_color(rng), 0.6)
    image = Image.composite(Image.new("RGB", size, other), Image.new("RGB", size, color), mask)
    draw = ImageDraw.Draw(image)
    if rng.random() < GROUND:
        draw.rectangle((0, height * rng.uniform(0.6, 0.9), width, height), _random_color(rng))
    # Corners and rounds on both classes' backdrops, so that neither gives a class away.
    for _ in range(rng.integers(0, 4)):
        circle = (rng.uniform(0, width), rng.uniform(0, height), rng.uniform(8, 45))
        sides = int(rng.choice([3, 4, len(CIRCLE)]))
        draw.regular_polygon(circle, sides, rng.uniform(0, 360), fill=_random_color(rng))
    return image


def render(kind: str, index: int, seed: int) -> bytes:
    """Draw one image as a JPEG file.

    Args:
        kind: "cat", "dog", or "test" for either.
        index: its number; each has a random stream of its own.
        seed: shared by the whole set.
    """
    rng = np.random.default_rng([seed, STREAMS[kind], index])
    if kind == UNLABELLED:
        kind = rng.choice(CLASSES)
    long = int(rng.integers(*LONG_SIDE, endpoint=True))
    short = max(MIN_SIDE, int(long * rng.uniform(0.62, 1)))
    size = (long, short) if rng.random() < LANDSCAPE else (short, long)
    canvas = draw_backdrop(size, rng)
    canvas = canvas.resize([SUPERSAMPLE * side for side in size], Image.Resampling.NEAREST)
    draw_animal(canvas, kind, rng)
    pixels = np.asarray(canvas.reduce(SUPERSAMPLE), np.float32)
    contrast, brightness, grain = rng.uniform(0.8, 1.15), rng.uniform(-25, 25), rng.uniform(0, 25)
    noise = np.float32(grain) * (rng.random(pixels.shape[:2], np.float32) - np.float32(0.5))
    pixels = pixels * np.float32(contrast)
    pixels += (noise + np.float32(128 * (1 - contrast) + brightness))[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))
    if rng.random() < GREY:
        image = image.convert("L")
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(*JPEG_QUALITY, endpoint=True)))
    return file.getvalue()


def _turn(angle: float) -> np.ndarray:
    """Return the matrix that turns row vectors by this angle, clockwise as y points down."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _mix(one: Color, other: Color, share: float) -> Color:
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def _shade(color: Color) -> Color:
    """Return the colour of a shape's outline."""
    return _mix(color, INK, 0.65)


def _vary(color: str, rng: np.random.Generator) -> Color:
    noisy = ImageColor.getrgb(color) + rng.normal(0, 10, size=3)
    return tuple(int(c) for c in np.clip(noisy, 0, 255))


def _random_color(rng: np.random.Generator) -> Color:
    color = rng.integers(30, 240, size=3)
    return _mix(color.tolist(), (color.mean(),) * 3, rng.uniform(0.2, 0.7))  # none too garish


def main(opts: Options) -> None:
    """Draw the folder, unless it has the images already."""
    out = pathlib.Path(opts.out)
    drawn_with = {key: value for key, value in options.to_json(opts).items() if key != "out"}
    if (out / MARKER).exists():
        hint = "remove the folder to draw it anew, or name another"
        found = storage.read_json(out / MARKER, what="a record of toy images", hint=hint)
        if found != drawn_with:
            raise UserError(f"{out} was drawn with {found}, not {drawn_with}: {hint}")
        terminal.say(f"{out} has these images already")
        return
    files = {f"test1/{n}.jpg": (UNLABELLED, n) for n in range(1, opts.test_count + 1)}
    for n in range(opts.count):
        index, which = divmod(n, len(CLASSES))
        files[f"train/{CLASSES[which]}.{index}.jpg"] = CLASSES[which], index
    progress = terminal.progress("drawing", len(files))
    with storage.atomic_folder(out) as folder, progress as advance:
        for name, (kind, index) in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(render(kind, index, opts.seed))
            advance()
        storage.write_json(folder / MARKER, drawn_with)
    terminal.say(f"drew {len(files)} images in {out}")


if __name__ == "__main__":
    cli.run(main, Options)
