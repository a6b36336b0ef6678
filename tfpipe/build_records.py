"""Turn labelled images into TFRecord shards that training reads.

    tfpipe build --source=train.zip --out=records/dogs-vs-cats

The images lie in folders, zip or tar archives or other records. Their labels come from the folder
(cat/0.jpg), the file name (cat.0.jpg) or a list; a list (CSV, text, JSON) can also be the source
and name both. Folders such as train/, val/ and test/ are the splits. What was understood is said in
one line, and two possible readings are an error. Every image is decoded as a check. What TensorFlow
would read wrongly is converted, and what is damaged is listed in rejects.csv. The folder --out
appears only when it is complete, and is the same for any number of workers. A build that was ended
resumes when the same command is given again. records/README.md describes the result.

Exit status: 0 all is well, 1 nothing was built, 2 wrong flags, 3 the data set was built but more
images were rejected than --max_rejects allows.
"""

import os
import shlex

from tfpipe.building.build_options import Options
from tfpipe.building.builder import build
from tfpipe.building.catalog import UNLABELLED
from tfpipe.building.selection import CHOSEN
from tfpipe.core import cli, remote, terminal
from tfpipe.core.errors import UserError
from tfpipe.images import strict
from tfpipe.records import manifest, rejects
from tfpipe.reporting import dataset_report as report

TOO_MANY_REJECTS = 3  # exit status

# Conversions that a person should know of.
_NOTED = {
    strict.MENDED: "images stored without damaged bytes that hold no pixels (extraneous, metadata)",
    strict.SCALED: "16-bit images scaled to the bits that they use (--depth16=full for all 16)",
}

_TABLE_ROWS = 20  # classes shown at the end; the manifest has them all


def main(options: Options) -> None:
    """Build the data set, unless it is up to date, and show it."""
    terminal.be_quiet(options.quiet)
    out, is_new = build(options)
    if is_new:
        _show(manifest.load(out), options.out)
    _judge_rejects(options, out)


def _show(built: manifest.Manifest, out: str) -> None:
    rows = [
        [name, *counts, sum(counts)]
        for name in built.classes
        for counts in [[built.splits[split][name] for split in built.splits]]
    ]
    if len(rows) > _TABLE_ROWS:
        rows = [*rows[:_TABLE_ROWS], [f"({len(rows) - _TABLE_ROWS} more)"]]
    rows.append(["all", *(built.count(split) for split in built.splits), built.count()])
    terminal.show_table(f"Records in {out}", ["class", *built.splits, "all"], rows)
    for reason, what in _NOTED.items():
        count = built.converted.get(reason, 0)
        if count:
            terminal.say(f"{what}: {count:,}")
    terminal.say(f"{len(built.shards)} shards are in {out}")
    if report.REPORT in built.files:
        terminal.say(f"look at the images: {os.path.join(out, report.REPORT)}")
    name = os.path.basename(os.path.normpath(out))
    terminal.say(
        "next: tfpipe train --recipe=mobilenet-frozen"
        f" {shlex.join([f'--records={out}', f'--run_dir=runs/{name}'])}"
    )


def _judge_rejects(options: Options, out: remote.Path) -> None:
    """Report rejected files; raise UserError if more images than allowed are among them."""
    rejected = rejects.load(out)
    path = os.path.join(options.out, rejects.REJECTS)
    others = sum(reject.reason == rejects.NOT_AN_IMAGE_NAME for reject in rejected)
    if others:
        are = "file is" if others == 1 else "files are"
        terminal.say(f"{others} other {are} no image; {path} lists them")
    unlabelled = [reject for reject in rejected if reject.reason == UNLABELLED]
    if unlabelled:
        have = "image has" if len(unlabelled) == 1 else "images have"
        terminal.say(
            f"{len(unlabelled)} {have} no label, the first {unlabelled[0].path}"
            f" ({unlabelled[0].detail}); {path} lists them"
        )
    chosen = sum(reject.reason in CHOSEN for reject in rejected)
    if chosen:
        were = "image was" if chosen == 1 else "images were"
        terminal.say(f"{chosen} {were} left out as asked; {path} lists them")
    fine = (rejects.NOT_AN_IMAGE_NAME, UNLABELLED, *CHOSEN)
    images = [reject for reject in rejected if reject.reason not in fine]
    if not images:
        return
    message = (
        f"{len(images)} {'image was' if len(images) == 1 else 'images were'} rejected, the first"
        f" {images[0].path} ({images[0].reason}: {images[0].detail}); {path} lists them"
    )
    if len(images) <= options.max_rejects:
        terminal.warn(message)
    else:
        raise UserError(
            f"{message}; the good images are in {options.out}: repair or remove the rejected ones,"
            f" or allow them with --max_rejects={len(images)}",
            status=TOO_MANY_REJECTS,
        )


if __name__ == "__main__":
    cli.run(main, Options)
