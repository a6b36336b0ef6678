"""Predicts the classes of unlabelled images and writes a CSV, as Kaggle takes it.

    python -m tfpipe.predict --run_dir=runs/NAME --source=test1.zip --out=submission.csv

For two classes the CSV has `id,label`, where label is P(second class); for more it has `id` and a
column of probabilities for each class, all calibrated and clipped as the run is. The id is the
file's name without its ending; ids that are numbers are sorted as numbers, before all others. An
image that cannot be read gets the share of each class in the training records, is named in
OUT.rejects.csv, and makes the exit status 3.
"""

import csv
import dataclasses
import pathlib

from tfpipe import cli, storage, terminal
from tfpipe.errors import UserError
from tfpipe.options import option

# The exit status when everything was written but some image could not be read.
REJECTS = 3


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of this command."""

    run_dir: str = option("folder of the run, as given to tfpipe.train, or of an ensemble")
    source: str = option("images: a folder, a zip or tar archive, or a CSV or JSONL list")
    out: str = option("CSV file to write")
    clip: str = option(
        "bounds that probabilities are clipped to, LOW,HIGH: they limit what one confident mistake"
        " costs in log loss; 0,1 for none, empty for the run's own",
        "",
    )
    tta: str = option("test-time views, or none; empty for those of the run", "")


def main(options: Options) -> int:
    """Runs the command; see the module's docstring."""
    bounds = _bounds(options.clip)
    out = pathlib.Path(options.out)
    if not out.parent.is_dir() or out.is_dir():
        raise UserError(f"--out={out}: give a file in a folder that exists")

    import numpy as np

    from tfpipe.fit import inference, trained
    from tfpipe.ingest import sources
    from tfpipe.input import files

    run = trained.load(options.run_dir)
    source = sources.open_source(options.source)
    names = source.names()
    ids = _ids(names)
    predictor = run.restore(tta=options.tta)
    calibration = dataclasses.replace(predictor.calibration, **bounds)
    predictor = dataclasses.replace(predictor, calibration=calibration)
    rejects = list(source.skipped)
    batches = files.file_batches(
        source,
        names,
        image_size=predictor.image_size,
        batch_size=inference.BATCH_SIZE,
        rejects=rejects,
    )
    found = inference.predict(predictor, batches, len(names), "predicting")
    unreadable = {name for name, _, _ in rejects}
    shares = np.asarray([run.class_shares], np.float32)
    prior = np.asarray(calibration.clip(shares))[0]
    answers = dict(zip(found["name"].tolist(), found["probabilities"], strict=True))
    rows = []
    for identity, name in ids:
        row = prior if name in unreadable else answers[name.encode("utf-8", "surrogateescape")]
        rows.append([identity, *(f"{p:.7g}" for p in _columns(row).tolist())])
    with storage.atomic_file(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label"] if len(prior) == 2 else ["id", *run.classes])
        writer.writerows(rows)
    terminal.say(f"wrote {len(rows):,} predictions to {out}")
    return _report(rejects, source, out)


def _columns(probabilities):
    """Returns what is written of one image's probabilities [C]."""
    return probabilities[1:] if len(probabilities) == 2 else probabilities


def _report(rejects: list[tuple[str, str, str]], source, out: pathlib.Path) -> int:
    from tfpipe.ingest.rejects import save

    path = out.with_name(out.name + ".rejects.csv")
    path.unlink(missing_ok=True)
    if not rejects:
        return 0
    save(path, rejects)
    name, reason, detail = min(rejects)
    terminal.error(
        f"{len(rejects)} of the files could not be read and got the classes' shares in the training"
        f" records; the first is {source.locate(name)} ({reason}: {detail}); see {path}"
    )
    return REJECTS


def _bounds(text: str) -> dict[str, float]:
    """Returns the fields of a `Calibration` that --clip sets."""
    if not text:
        return {}
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise UserError(f"--clip={text}: give two numbers LOW,HIGH with 0 <= LOW < HIGH <= 1")
    return {"low": low, "high": high}


def _ids(names: list[str]) -> list[tuple[str, str]]:
    """Returns (id, name) in the order of the CSV; raises UserError where two names share an id."""
    by_id: dict[str, str] = {}
    for name in names:
        identity = pathlib.PurePosixPath(name).stem
        if identity in by_id:
            raise UserError(
                f"--source: {by_id[identity]!r} and {name!r} have the same id {identity!r}: give"
                " each image a name of its own"
            )
        by_id[identity] = name
    numbers = sorted((i for i in by_id if i.isdecimal()), key=lambda i: (int(i), i))
    others = sorted(i for i in by_id if not i.isdecimal())
    return [(identity, by_id[identity]) for identity in numbers + others]


if __name__ == "__main__":
    cli.run(main, Options)
