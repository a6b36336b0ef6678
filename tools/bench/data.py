"""The images of a benchmark: as files in a folder for each class, and as records."""

import argparse
import csv
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from tools.bench import harness
from tools.bench.harness import Finished, Session, Tree


def parser(doc: str, images: int = 0) -> argparse.ArgumentParser:
    """Return a parser with the flags of a benchmark that reads images; `images` is a default."""
    made = harness.parser(doc)
    add = made.add_argument
    add("--source", action="append", required=True, help="as for tfpipe.build_records")
    what = "images to read, the classes in turn; 0 for all"
    add("--images", type=int, default=images, help=what)
    add("--size", type=int, default=299, help="side of the model's input in pixels")
    add("--batch_size", type=int, default=32, help="images in a batch")
    add("--workers", type=int, default=os.cpu_count(), help="processes or threads of each")
    add("--seconds", type=float, default=4.0, help="how long to measure, after warming up")
    return made


def settings(flags: argparse.Namespace) -> dict[str, Any]:
    """Return what each function that reads images takes of these flags."""
    return {name: getattr(flags, name) for name in ("size", "batch_size", "workers", "seconds")}


def prepare(session: Session, sources: Sequence[str], images: int = 0) -> pathlib.Path:
    """Return a folder CLASS/IMAGE with the images of `sources` that tfpipe accepts.

    It keeps the first `images`, the classes in turn; 0 for all.
    """
    records, folder = session.work / "accepted", session.work / "images" / "train"
    build(session.trees[0], sources, records, "--splits=train:1", "--duplicates=keep")
    harness.call(session.trees[0], "data.extract", records=records, out=folder.parent)
    for path, _ in in_turn(folder)[images:] if images else ():
        path.unlink()
    return folder


def build(
    tree: Tree, sources: Sequence[str], out: pathlib.Path, *flags: str, workers: int = 0
) -> Finished:
    """Run `tfpipe.build_records` of a checkout."""
    given = [f"--source={pathlib.Path(source).resolve()}" for source in sources]
    given += [f"--workers={workers}"] if workers else []
    command = ["-m", "tfpipe.build_records", "--noreport", "--quiet", f"--out={out}"]
    return harness.process(tree, *command, *given, f"--max_rejects={2**31 - 1}", *flags)


def extract(records: str, out: str) -> dict[str, int]:
    """Write the images of records to OUT/SPLIT/CLASS/NUMBER.jpeg; return how many each split has.

    It runs in a process of its own, because it needs TensorFlow.
    """
    import tensorflow as tf

    counts: dict[str, int] = {}
    for shard in sorted(pathlib.Path(records).glob("*.tfrecord*")):
        split = shard.name.partition("-")[0]
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            encoded, kind, label = (
                features[f"image/{name}"].bytes_list.value[0]
                for name in ("encoded", "format", "class/text")
            )
            counts[split] = counts.get(split, 0) + 1
            name = f"{counts[split]:08d}.{kind.decode()}"
            path = pathlib.Path(out, split, label.decode(), name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)
    return counts


def in_turn(folder: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Return (path, class) of each image of a folder CLASS/IMAGE, the classes in turn."""
    classes = [sorted(each.iterdir()) for each in sorted(folder.iterdir())]
    ranked = sorted((rank, path) for paths in classes for rank, path in enumerate(paths))
    return [(path, path.parent.name) for _, path in ranked]


def write_list(rows: Sequence[tuple[pathlib.Path, str]], path: pathlib.Path) -> pathlib.Path:
    """Write a list of images that `tfpipe.build_records` takes as a source; return its path."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return path
