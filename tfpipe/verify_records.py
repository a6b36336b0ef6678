"""Tells whether a data set is as it was built, or which of its files are damaged.

    python -m tfpipe.verify_records --records=records/dogs-vs-cats

Reads every byte of every shard, and finds each one that is missing, empty, cut, changed by as
little as a bit, or not in manifest.json, and which record is the first damaged one. Images are not
decoded. Training does as much before its first step, for the shards that it will read; run this
after a data set was copied or a disk complained.

Exit status: 0 all is well, 1 something is damaged, 2 wrong flags.
"""

import dataclasses

from tfpipe.core import cli, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.records import manifest, verify


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    records: str = option("the folder that tfpipe.build_records wrote")


def main(options: Options) -> None:
    """Verifies the data set.

    Raises:
        UserError: it is damaged; every damaged file was told before.
    """
    described = manifest.load(options.records)
    verify.check_fields(described)
    total = sum(verify.blocks(shard) for shard in described.shards)
    with terminal.progress("verifying", total, "MB") as advance:
        found = verify.find_damage(described, advance)
    for each in found:
        terminal.say(f"{each.name}: {each.problem}")
    if found:
        files = "1 file" if len(found) == 1 else f"{len(found)} files"
        raise UserError(
            f"{options.records} has {files} that {'is' if len(found) == 1 else 'are'} damaged or"
            f" not its own, the first {found[0].name} ({found[0].problem}): restore what is damaged"
            " from a copy and remove what is strange, or build the data set again with `python -m"
            " tfpipe.build_records --overwrite`"
        )
    megabytes = sum(shard.bytes for shard in described.shards) / 10**6
    terminal.result(
        f"{options.records} is whole: {len(described.shards)} shards, {described.count()} records,"
        f" {megabytes:,.1f} MB verified"
    )


if __name__ == "__main__":
    cli.run(main, Options)
