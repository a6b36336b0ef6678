"""Measures how long a training takes to the same validation loss: the seeds' way, and tfpipe's.

    python -m tools.bench.train --source=train.zip --weights=mobilenet.h5 [--json=FILE]

Both train MobileNet from the same weights on the same images of two classes, in the same two
splits, with the same optimizer, batches and number of epochs, and neither stops early:

    r1-frozen   R1: a head on the frozen backbone, Adam, 1e-3, batches of 50, --epochs
    r2          R2: the features are computed once, by both; Adadelta, 1, batches of 128, 8 epochs
    r3-staged   R3, model 1: the head, then also conv_pw_12 and all after it, then from conv_pw_10;
                augmented; Adam, 1e-4, batches of 32, --stage_epochs for each

    RECIPE-seed Keras' ImageDataGenerator and `model.fit`, see tools/bench/seeds.py
    RECIPE      `python -m tfpipe.train`, with its defaults otherwise: so the end is the calibration
    build       `python -m tfpipe.build_records`

Each is a process of its own, and its time begins with its start. Each round has its own seed. The
time to the same loss ends with the first epoch as good as the best of the side whose best is worse.
"""

import collections
import csv
import itertools
import pathlib
import re
import sys
import tempfile

from tools.bench import data, harness
from tools.bench.harness import Case, Tree
from tools.bench.report import Figures, Ratio, Round
from tools.bench.seeds import HEAD, RECIPES, SeedRecipe

SPLITS = "--splits=train:0.8,val:0.2"  # as published, whatever the default of a version


def main() -> int:
    """Print the tables; return the exit status."""
    parser = harness.parser(__doc__)
    add = parser.add_argument
    add("--source", action="append", required=True, help="as for tfpipe.build_records")
    add("--images", type=int, default=0, help="images to take, the classes in turn; 0 for all")
    add("--weights", required=True, help="a .h5 file for MobileNet without its top, or none")
    add("--epochs", type=int, default=10, help="epochs of r1-frozen")
    add("--stage_epochs", type=int, default=3, help="epochs of each stage of r3-staged")
    add("--feature_views", type=int, default=3, help="as for tfpipe.train, in r3-staged")
    add("--seed_workers", type=int, default=1, help="threads of the seeds' generators")
    add("--image_size", type=int, default=224, help="side of the input in pixels, at least 32")
    flags = parser.parse_args()
    if flags.weights != "none":
        flags.weights = str(pathlib.Path(flags.weights).resolve())
    with harness.session(flags) as session:
        folder = data.prepare(session, flags.source, flags.images)
        records = {tree: session.work / f"records-{tree.name}" for tree in session.trees}
        for tree, out in records.items():
            data.build(tree, [folder], out, SPLITS)
        ours, splits = session.trees[0], session.work / "splits"
        harness.call(ours, "data.extract", records=records[ours], out=splits)
        epochs = {"r1-frozen": flags.epochs, "r2": 8, "r3-staged": flags.stage_epochs}
        common = {"weights": flags.weights, "image_size": flags.image_size}

        def build(tree: Tree) -> Figures:
            with tempfile.TemporaryDirectory(dir=session.work) as work:
                return {
                    "s": data.build(tree, [folder], pathlib.Path(work, "records"), SPLITS).seconds
                }

        def seed_case(name: str) -> Case:
            recipe = RECIPES[name]._asdict() | common | {"epochs": epochs[name]}
            recipe |= {"folder": splits, "workers": flags.seed_workers}
            del recipe["target"]
            seeds = itertools.count()

            def measure(tree: Tree) -> Figures:
                command = harness.command("seeds.train", **recipe, seed=next(seeds))
                done = harness.process(tree, *command)
                found = [(s, re.match(r"val_loss=(\S+)", line)) for s, line in done.lines]
                losses = [(s, float(match[1])) for s, match in found if match]
                return figures(done, *zip(*losses, strict=True))

            return Case(f"{name}-seed", measure, ours=False)

        def our_case(name: str) -> Case:
            given = our_flags(RECIPES[name], epochs[name], flags.feature_views) | common
            seeds = {tree: itertools.count() for tree in session.trees}

            def measure(tree: Tree) -> Figures:
                with tempfile.TemporaryDirectory(dir=session.work) as run_dir:
                    paths = {"records": records[tree], "run_dir": f"{run_dir}/run"}
                    named = given | paths | {"seed": next(seeds[tree])}
                    command = [f"--{flag}={value}" for flag, value in named.items()]
                    done = harness.process(tree, "-m", "tfpipe.train", *command)
                    with open(f"{run_dir}/run/log.csv", newline="", encoding="utf-8") as file:
                        rows = list(csv.DictReader(file))
                return figures(done, ends(done, rows), [float(row["val_loss"]) for row in rows])

            return Case(name, measure)

        cases = [Case("build", build)]
        cases += [make(name) for name in RECIPES for make in (seed_case, our_case)]
        return harness.run(session, cases, (), [c for name in RECIPES for c in comparisons(name)])


def our_flags(recipe: SeedRecipe, epochs: int, feature_views: int) -> dict:
    """Return the flags of `tfpipe.train` that train what the seeds' way does."""
    stages = [stage if stage == HEAD else f"{stage}:from={stage}" for stage in recipe.stages]
    given = {"backbones": "mobilenet", "stages": ";".join(stages), "pooling": "avg"}
    given |= {"head": "dropout(0.5)", "head_init": "glorot_uniform", "output": "sigmoid"}
    given |= {"optimizer": recipe.optimizer.lower(), "learning_rate": recipe.learning_rate}
    given |= {"batch_size": recipe.batch_size, "epochs": epochs, "patience": epochs}
    if recipe.augment:
        given |= {"augment": "shear(0.2)|zoom_xy(0.8,1.2)|flip_lr", "batch_norm": "trained"}
        # With as many views as epochs, no epoch of a stage repeats the pictures of another.
        given |= {"feature_views": min(feature_views, epochs)}
    return given


def ends(done: harness.Finished, rows: list[dict[str, str]]) -> list[float]:
    """Return when the epochs of log.csv ended, in seconds from the start of the process.

    Not all short epochs are printed, but the last one of a stage is: what lies before it follows
    from how long each epoch took.
    """
    pattern = re.compile(r"(?:(\S+) )?epoch (\d+)/\d+  loss ")
    matches = [(seconds, pattern.match(line)) for seconds, line in done.lines]
    printed = {match.groups(): seconds for seconds, match in matches if match}
    counts: collections.Counter[str] = collections.Counter()
    found: list[float | None] = []
    for row in rows:
        counts[row["stage"]] += 1
        number = str(counts[row["stage"]])
        found.append(printed.get((row["stage"], number), printed.get((None, number))))
    if not found or found[-1] is None:
        raise harness.Failed(f"the end of {len(found)} logged epochs was not printed")
    for index in reversed(range(len(found) - 1)):
        if found[index] is None:
            found[index] = found[index + 1] - float(rows[index + 1]["seconds"])
    return found


def figures(done: harness.Finished, seconds: list[float], losses: list[float]) -> dict:
    """Return the figures of a training, with the `seconds` and `losses` of its epochs."""
    found = {"s": done.seconds, "best val_loss": min(losses), "peak MB": done.peak_mb}
    return found | {"seconds": list(seconds), "losses": list(losses)}


def comparisons(name: str) -> list[Ratio]:
    """Return the seed's time divided by ours, to the same loss and in all, and both losses."""

    def to_same_loss(one: Round, side: str) -> float:
        goal = max(min(one[each]["losses"]) for each in (name, f"{name}-seed"))
        epochs = zip(one[side]["seconds"], one[side]["losses"], strict=True)
        return next(seconds for seconds, loss in epochs if loss <= goal)

    def same_loss(one: Round) -> float:
        return to_same_loss(one, seed) / to_same_loss(one, name)

    def with_build(one: Round) -> float:
        return to_same_loss(one, seed) / (to_same_loss(one, name) + one["build"]["s"])

    def best(one: Round) -> float:
        return one[name]["best val_loss"] / one[seed]["best val_loss"]

    seed, text = f"{name}-seed", f"{name}, seed / ours"
    return [
        Ratio(f"{text}: s to the same loss", same_loss, RECIPES[name].target),
        Ratio(f"{text}: the same with the build", with_build),
        Ratio(f"{text}: s in all", lambda one: one[seed]["s"] / one[name]["s"]),
        Ratio(f"{name}, ours / seed: best val_loss", best, most=1.0),
    ]


if __name__ == "__main__":
    sys.exit(main())
