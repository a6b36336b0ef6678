"""Measures how long a training takes to the same validation loss: the seeds' way, and tfpipe's.

    python tools/bench_train.py --source=train.zip --weights=mobilenet.h5 [--json=train.json]

Both sides train MobileNet from the same weights on the same images, in the same two splits, with
the same optimizer, batches and number of epochs, and neither stops early:

    r1-frozen   R1: a head on the frozen backbone, Adam, 1e-3, batches of 50, --epochs
    r2          R2: the features are computed once, by both; Adadelta, 1, batches of 128, 8 epochs
    r3-staged   R3, model 1: the head, then also conv_pw_12 and all after it, then from conv_pw_10;
                augmented; Adam, 1e-4, batches of 32, --stage_epochs for each

    seed        Keras' ImageDataGenerator and `model.fit`; see tools/bench_train_seeds.py
    tfpipe      `python -m tfpipe.train` with a head that starts as Keras' does and, in r3-staged,
                --feature_views and BatchNorm trained as the seeds did; and else its defaults: so
                the end is the calibration

Each is a process of its own, and all times begin with its start; each round runs all of them, one
after the other, with a seed of its own. The time to the same loss is that of the end of the first
epoch at which a side was as good as the best of the one that is worse at its best. The records are
built before the rounds, and their time is also told together with the training's. Last come
trainings of tfpipe's r1-frozen with the first images of --sizes, the classes in turn.
"""

import csv
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tfpipe
from tfpipe import sources
from tfpipe.building import catalog
from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.records import manifest as manifests
from tfpipe.records.part import Part

ROOT = pathlib.Path(__file__).resolve().parent.parent

SPLITS = ("train", "val")
SEED, OURS = "seed", "tfpipe"
SIDES = (SEED, OURS)
NO_WEIGHTS = "none"
HEAD = "head"


class Recipe(NamedTuple):
    """What both sides train in the same way.

    Attributes:
        optimizer: its class in Keras; tfpipe has the same name in lower case.
        learning_rate: of it.
        batch_size: images in a step.
        stages: the first layer that each trains, "head" for none of the backbone.
        augment: whether as R3 did.
        bottleneck: whether the features are computed once, by the seed too.
    """

    optimizer: str
    learning_rate: float
    batch_size: int
    stages: tuple[str, ...] = (HEAD,)
    augment: bool = False
    bottleneck: bool = False


FROZEN, STAGED = "r1-frozen", "r3-staged"
RECIPES = {
    FROZEN: Recipe("Adam", 1e-3, 50),
    "r2": Recipe("Adadelta", 1.0, 128, bottleneck=True),
    # MobileNet has 13 blocks; R3 cut Xception, which has 14, at 13 and at 11.
    STAGED: Recipe("Adam", 1e-4, 32, (HEAD, "conv_pw_12", "conv_pw_10"), augment=True),
}
BOTTLENECK_EPOCHS = 8  # of R2
R3_AUGMENT = "shear(0.2)|zoom_xy(0.8,1.2)|flip_lr"

_LEAST_SIZE = 100  # so that there is a batch of r1-frozen's to train on

# The least that the seed's time is to be of tfpipe's.
TARGETS = {FROZEN: 10.0, STAGED: 2.0}

_EPOCH = {SEED: re.compile(r'\{"val_loss"'), OURS: re.compile(r"(\S+ )?epoch \d+/\d+  loss ")}
_PACKAGES = ("tensorflow", "keras", "numpy", "pillow", "scipy", "simplejpeg", "h5py")


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    source: tuple[str, ...] = option("as of tfpipe.build_records; images of two classes")
    weights: str = option("MobileNet's weights without the top: a .h5 file, or none (random)")
    json: str = option("file for the figures; empty for none", "")
    recipes: str = option("what to train, separated by commas; empty for none", ",".join(RECIPES))
    images: int = option("how many images to take, the classes in turn; 0 for all", 0)
    epochs: int = option("of r1-frozen", 10)
    stage_epochs: int = option("of each stage of r3-staged", 3)
    feature_views: int = option(
        "as of tfpipe.train, for r3-staged, but no more than --stage_epochs: with as many, no"
        " epoch of a stage sees the pictures of another, as in the seed's way; 0 to keep none",
        3,
    )
    seed_workers: int = option("threads of the seeds' generators, which had Keras' default", 1)
    sizes: str = option("numbers of images for tfpipe alone, as in 1000,8000; empty for none", "")
    image_size: int = option("side of the model's input in pixels, at least 32", 224)
    rounds: int = option("trainings of each kind", 1)
    work: str = option("folder for temporary files; empty for the system's", "")


def main(options: Options) -> None:
    """Prints tables of medians and ratios."""
    names, sizes = _check(options)
    if options.work and not os.path.isdir(options.work):
        raise UserError(f"--work={options.work}: give a folder that exists")
    with tempfile.TemporaryDirectory(dir=options.work or None) as work:
        bench = Bench(options, pathlib.Path(work).resolve())
        bench.check(names)
        sizes = [size for size in sizes if bench.has(size)]
        rounds = []
        total = options.rounds * (len(names) * len(SIDES) + len(sizes))
        with terminal.progress("training", total, "processes") as advance:
            for number in range(options.rounds):
                rounds.append(bench.round(number, names, sizes, advance))
    report = {
        "images": bench.counts,
        "build": bench.build,
        "recipes": summary(rounds, bench.build["seconds"]),
        "sizes": growth(rounds),
    }
    _show(report, options)
    if options.json:
        about = {"options": dataclasses.asdict(options), "machine": _machine()}
        about["versions"] = {name: importlib.metadata.version(name) for name in _PACKAGES}
        about["versions"]["tfpipe"] = tfpipe.__version__
        storage.write_json(options.json, about | report | {"rounds": rounds})


def _check(options: Options) -> tuple[list[str], list[int]]:
    """Returns the recipes and the sizes that were asked for."""
    leasts = {"images": 0, "epochs": 1, "stage_epochs": 1, "feature_views": 0, "seed_workers": 1}
    for flag, least in (leasts | {"image_size": 32, "rounds": 1}).items():
        value = getattr(options, flag)
        if value < least:
            raise UserError(f"--{flag}={value}: it must be at least {least}", status=2)
    names = options.recipes.split(",") if options.recipes else []
    for name in names:
        if name not in RECIPES:
            raise UserError(f"--recipes: {name!r} is none of {', '.join(RECIPES)}", status=2)
    if not re.fullmatch(r"([1-9]\d*(,[1-9]\d*)*)?", options.sizes):
        raise UserError(f"--sizes={options.sizes!r}: write numbers, as in 1000,8000", status=2)
    sizes = sorted({int(size) for size in options.sizes.split(",") if size})
    if not names and not sizes:
        raise UserError("--recipes and --sizes are empty: name something to train", status=2)
    if sizes and sizes[0] < _LEAST_SIZE:
        raise UserError(f"--sizes: {sizes[0]} is too small; {_LEAST_SIZE} is the least", status=2)
    if options.weights != NO_WEIGHTS and not pathlib.Path(options.weights).is_file():
        raise UserError(
            f"--weights={options.weights} is no file: give the path of MobileNet's weights, or"
            f" {NO_WEIGHTS}"
        )
    return names, sizes


class Bench:
    """The images, as files and as records, and the trainings on them.

    Attributes:
        counts: images of each split.
        build: what `watch` returns of the records' build.
    """

    def __init__(self, options: Options, work: pathlib.Path):
        """Takes the images that tfpipe.build_records accepts, and splits them as it does."""
        self._options, self._work = options, work
        self._builds: dict[int, dict] = {}
        self._rows = self._files()
        if options.images > len(self._rows):
            raise UserError(
                f"--images={options.images}: --source has {len(self._rows)} good images: give that"
                " or less, or 0 for all"
            )
        self._records, self.build = self._built(options.images or len(self._rows))
        manifest = manifests.load(self._records)
        self.counts = {split: manifest.images(split) for split in SPLITS}
        self._tree = self._work / "tree"
        for split in SPLITS:
            for number, record in enumerate(Part(manifest, (split,)).records()):
                path = self._tree / split / record.text / f"{number:08d}.{record.format}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(record.encoded)

    def check(self, names: Sequence[str]) -> None:
        """Raises UserError if there is no batch to train on for one of the recipes."""
        for name in names:
            batch = RECIPES[name].batch_size
            if self.counts["train"] < batch:
                raise UserError(
                    f"{name} takes batches of {batch}, and {self.counts['train']} images are to"
                    " train on: take more --images, or leave it out of --recipes"
                )

    def has(self, size: int) -> bool:
        """Returns whether there are so many images, and warns if not."""
        if size <= len(self._rows):
            return True
        terminal.warn(f"--sizes: {size} is left out: --source has {len(self._rows):,} images")
        return False

    def round(
        self, number: int, names: Sequence[str], sizes: Sequence[int], advance: Callable
    ) -> dict:
        """Runs one round.

        Args:
            number: of the round, and the seed of all its trainings.
            names: of the recipes.
            sizes: numbers of images for tfpipe alone.
            advance: called with 1 after each training, and with 0 after each epoch.

        Returns:
            `recipes`: by recipe and side what `watch` returns of the training, with the
            `val_losses` of its epochs. `sizes`: by number of images the same, with its `build`.
        """
        recipes = {
            name: {side: self._train(name, side, number, self._records, advance) for side in SIDES}
            for name in names
        }
        found = {}
        for size in sizes:
            records, build = self._built(size)
            run = self._train(FROZEN, OURS, number, records, advance)
            found[str(size)] = run | {"build": build}
        return {"recipes": recipes, "sizes": found}

    def _train(
        self, name: str, side: str, seed: int, records: pathlib.Path, advance: Callable
    ) -> dict:
        what = f"{name}, {side}"

        def tell(epoch: int) -> None:
            advance(0, f"{what}, epoch {epoch}")

        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            if side == SEED:
                command = ["-m", "tools.bench_train_seeds", f"--folder={self._tree}"]
            else:
                run_dir = pathlib.Path(folder) / "run"
                paths = [f"--records={records}", f"--run_dir={run_dir}"]
                command = ["-m", "tfpipe.train", *paths]
            command += [*flags(name, side, self._options), f"--seed={seed}"]
            found, lines = watch([sys.executable, *command], _EPOCH[side], tell)
            if side == SEED:
                losses = [json.loads(line)["val_loss"] for line in lines]
            else:
                with open(run_dir / "log.csv", newline="", encoding="utf-8") as file:
                    losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
        if len(losses) != len(lines):
            raise RuntimeError(f"log.csv has {len(losses)} epochs, and {len(lines)} were told of")
        advance(1, what)
        terminal.say(f"{what}: {found['seconds']:.1f} s, best val_loss {min(losses):.4f}")
        return found | {"val_losses": losses}

    def _files(self) -> list[tuple[str, str]]:
        """Writes the good images into files; returns (path, label) of each, the classes in turn."""
        folder = self._work / "accepted"
        command = [f"--source={path}" for path in self._options.source]
        # One split, and copies are images too.
        _build_records([*command, "--splits=train:1", "--duplicates=keep", "--noreport"], folder)
        files = catalog.read([sources.open_source(str(folder))], "auto", "")
        images = self._work / "images"
        images.mkdir()
        rows: dict[str, list[tuple[str, str]]] = {}
        for number, item in enumerate(files.refs):
            data = files.sources[0].read(item.name)
            suffix = "jpg" if data.startswith(b"\xff\xd8") else "png"
            path = images / f"{number:08d}.{suffix}"
            path.write_bytes(data)
            label = files.label_of[item]
            rows.setdefault(label, []).append((str(path), label))
        if len(rows) != 2:
            raise UserError(
                f"--source has {len(rows)} classes: give images of two, which is what the seeds"
                " tell apart"
            )
        ranked = sorted((rank, row) for each in rows.values() for rank, row in enumerate(each))
        return [row for _, row in ranked]

    def _built(self, count: int) -> tuple[pathlib.Path, dict]:
        """Returns records of the first images, built when they are first needed, and the build."""
        folder = self._work / f"records-{count}"
        if count not in self._builds:
            listed = self._work / f"{count}.jsonl"
            with storage.atomic_file(listed) as file:
                for path, label in self._rows[:count]:
                    file.write(json.dumps({"path": path, "label": label}) + "\n")
            self._builds[count] = _build_records([f"--source={listed}"], folder)
        return folder, self._builds[count]


def _build_records(arguments: Sequence[str], folder: pathlib.Path) -> dict:
    command = [sys.executable, "-m", "tfpipe.build_records", *arguments, f"--out={folder}"]
    return watch([*command, f"--max_rejects={2**31 - 1}"])[0]


def flags(name: str, side: str, options: Options) -> list[str]:
    """Returns the flags of a training, but for its paths and its seed."""
    recipe = RECIPES[name]
    epochs = {FROZEN: options.epochs, STAGED: options.stage_epochs}.get(name, BOTTLENECK_EPOCHS)
    common = {
        "weights": options.weights,
        "image_size": options.image_size,
        "epochs": epochs,
        "learning_rate": recipe.learning_rate,
        "batch_size": recipe.batch_size,
    }
    if side == SEED:
        own = {
            "optimizer": recipe.optimizer,
            "stages": ",".join(recipe.stages),
            "workers": options.seed_workers,
        }
        switches = [f"--{flag}" for flag in ("augment", "bottleneck") if getattr(recipe, flag)]
    else:
        own = {
            "backbones": "mobilenet",
            "stages": ";".join(_stage(start) for start in recipe.stages),
            "pooling": "avg",
            "head": "dropout(0.5)",
            "head_init": "glorot_uniform",
            "output": "sigmoid",
            "optimizer": recipe.optimizer.lower(),
            "patience": epochs,
        }
        if recipe.augment:
            views = min(options.feature_views, epochs)
            own |= {"augment": R3_AUGMENT, "feature_views": views, "batch_norm": "trained"}
        switches = []
    return [*(f"--{flag}={value}" for flag, value in (common | own).items()), *switches]


def _stage(start: str) -> str:
    return start if start == HEAD else f"{start}:from={start}"


def watch(
    command: Sequence[str], epoch: re.Pattern | None = None, tell: Callable = lambda number: None
) -> tuple[dict, list[str]]:
    """Runs a command.

    Args:
        command: what it is; `tools` and tfpipe are imported from where this file is.
        epoch: matches the beginning of the line that it prints after each epoch.
        tell: called with the number of each epoch that is over, from 1.

    Returns:
        The `command`, the `seconds` that it took, and those until each of its `epochs` was over;
        and the lines of these epochs.

    Raises:
        UserError: it failed.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    start = time.perf_counter()
    times, lines, last = [], [], ""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as process:
        try:
            for line in process.stdout:
                last = line.strip() or last
                if epoch and epoch.match(line):
                    times.append(time.perf_counter() - start)
                    lines.append(line)
                    tell(len(lines))
            status = process.wait()
        finally:
            process.kill()
    seconds = time.perf_counter() - start
    if status:
        raise UserError(f"{' '.join(command[1:4])} failed: {last[-500:]}")
    return {"command": list(command), "seconds": seconds, "epochs": times}, lines


def compare(runs: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Returns what one round says of a recipe.

    Args:
        runs: of each side the `seconds` of its process, those at the end of each of its `epochs`,
            and their `val_losses`.

    Returns:
        Of each side its `best_val_loss`; `to_loss_s`, the time to the first epoch that was as good
        as the worse of the two best; `total_s`, to the end of the process.
    """
    goal = max(min(run["val_losses"]) for run in runs.values())
    return {
        side: {
            "best_val_loss": min(run["val_losses"]),
            "to_loss_s": next(
                seconds
                for seconds, loss in zip(run["epochs"], run["val_losses"], strict=True)
                if loss <= goal
            ),
            "total_s": run["seconds"],
        }
        for side, run in runs.items()
    }


def summary(rounds: Sequence[dict], build_s: float) -> dict[str, dict]:
    """Returns what the rounds say of each recipe.

    Args:
        rounds: what `Bench.round` returned.
        build_s: seconds of the records' build.

    Returns:
        By recipe, all as medians: what `compare` returns; `ratios` of the seed's time to tfpipe's,
        of `to_loss` and `total`, each also `_with_build`; and the `target`, None without one.
    """
    found = {}
    for name in rounds[0]["recipes"]:
        compared = [compare(each["recipes"][name]) for each in rounds]
        ratios = {
            f"{what}{suffix}": statistics.median(
                each[SEED][f"{what}_s"] / (each[OURS][f"{what}_s"] + before) for each in compared
            )
            for what in ("to_loss", "total")
            for suffix, before in (("", 0.0), ("_with_build", build_s))
        }
        sides = {
            side: {key: statistics.median(each[side][key] for each in compared) for key in figures}
            for side, figures in compared[0].items()
        }
        found[name] = sides | {"ratios": ratios, "target": TARGETS.get(name)}
    return found


def growth(rounds: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Returns, by number of images, the seconds of the build and, as median, of a training."""
    return {
        size: {
            "build_s": first["build"]["seconds"],
            "total_s": statistics.median(each["sizes"][size]["seconds"] for each in rounds),
        }
        for size, first in rounds[0]["sizes"].items()
    }


def _show(report: dict, options: Options) -> None:
    counts = report["images"]
    of = f"{counts['train']:,} images, validated on {counts['val']:,}, medians of {options.rounds}"
    rows, ratios = [], []
    for name, found in report["recipes"].items():
        best = {side: found[side]["best_val_loss"] for side in SIDES}
        for side in SIDES:
            seconds = [f"{found[side][key]:.1f}" for key in ("to_loss_s", "total_s")]
            rows.append([f"{name}, {side}", f"{best[side]:.4f}", *seconds])
        rows[-1].append(_yes(best[OURS] <= best[SEED]))
        least = found["target"]
        for what, text in (("to_loss", "to the same loss"), ("total", "in all")):
            values = [found["ratios"][f"{what}{suffix}"] for suffix in ("", "_with_build")]
            target = [] if least is None else [f">= {least:g}", _yes(values[0] >= least)]
            ratios.append([f"{name}, {text}", *(f"{value:.2f}" for value in values), *target])
    if rows:
        rows.append(["build of the records", "", "", f"{report['build']['seconds']:.1f}"])
        columns = ["", "val_loss", "s to the same", "s in all", "not higher"]
        terminal.show_table(f"Training: {of}", columns, rows)
        columns = ["", "training", "with the build", "target", "reached"]
        terminal.show_table("The seed's time, divided by tfpipe's", columns, ratios)
    rows = [
        [f"{int(size):,}", *(f"{each[key]:.1f}" for key in ("build_s", "total_s")),
         f"{1000 * each['total_s'] / int(size):.1f}"]
        for size, each in report["sizes"].items()
    ]  # fmt: skip
    if rows:
        columns = ["images", "s to build", "s to train", "s to train, for 1,000"]
        terminal.show_table(f"{FROZEN}, {OURS}: by the number of images", columns, rows)


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


def _machine() -> dict:
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    cli.run(main, Options, tuned=False)
