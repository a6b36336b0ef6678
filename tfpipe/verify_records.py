"""Check that a data set is complete and unchanged, and list its damaged files.

    tfpipe verify --records=records/dogs-vs-cats

Reads every byte of every shard. Finds shards that are missing, empty, cut, changed by a single bit,
or not in manifest.json, and the first damaged record of each. Does not decode images. Training
does the same before its first step, for the shards that it reads; run this command after a copy or
a disk error.

Exit status: 0 no damage, 1 damage, 2 wrong flags.
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
    """Verify the data set and print every damaged file.

    Raises:
        UserError: the data set is damaged.
    """
    described = manifest.load(options.records)
    total = sum(verify.blocks(shard) for shard in described.shards)
    with terminal.progress("verifying", total, "MB") as advance:
        found = verify.find_damage(described, advance)
    for each in found:
        terminal.say(f"{each.name}: {each.problem}")
    if found:
        files = "1 file" if len(found) == 1 else f"{len(found)} files"
        raise UserError(
            f"{options.records} has {files} that differ from the manifest, first"
            f" {found[0].name} ({found[0].problem}): restore damaged files from a copy and remove"
            " unknown ones, or build the data set again with `python -m tfpipe.build_records"
            " --overwrite`"
        )
    megabytes = sum(shard.bytes for shard in described.shards) / 10**6
    terminal.result(
        f"{options.records} is whole: {len(described.shards)} shards, {described.count()} records,"
        f" {megabytes:,.1f} MB verified"
    )


if __name__ == "__main__":
    cli.run(main, Options)
