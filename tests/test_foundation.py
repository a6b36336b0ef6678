"""Registry, spec strings, options and atomic files."""

import dataclasses
import os

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from tests.refusals import refused
from tfpipe.core import options, spec, storage
from tfpipe.core.errors import UserError, as_flags, one_line
from tfpipe.core.options import option
from tfpipe.core.registry import Registry
from tfpipe.core.spec import Call


class TestRegistry:
    def test_lists_the_known_names_and_the_nearest_and_refuses_a_name_twice(self):
        registry = Registry("colour")
        registry.add("red", 1)
        registry.register("blue")(object())
        with refused(r"unknown colour 'bleu'; did you mean 'blue'\? known: blue, red"):
            registry["bleu"]
        with pytest.raises(ValueError, match="twice"):
            registry.add("red", object())


class TestSpec:
    def test_reads_nested_chains(self):
        assert spec.parse("one_of(crop(0.9), rotate(-20)|flip)|maybe(.5,blur)", option="x") == (
            Call("one_of", ((Call("crop", (0.9,)),), (Call("rotate", (-20.0,)), Call("flip")))),
            Call("maybe", (0.5, (Call("blur"),))),
        )

    @pytest.mark.parametrize(
        "text",
        [
            *("a(", "a.b(1)", "__import__('os')", "a(b=1)", "a|-b", "a()()", "f(True)", "f(-g)"),
            *("f(1e999)", f"f({10**400})", "f(g(1,-1e400))"),
            *("[1]", "a;b", "a\nb", "lambda: 0", "(" * 900 + "a" + ")" * 900, "a" * 3000),
        ],
    )
    def test_refuses_everything_else(self, text):
        assert spec.parse("  ", option="augment") == ()
        with pytest.raises(UserError, match="`augment="):
            spec.parse(text, option="augment")

    @given(st.text(max_size=60))
    def test_never_fails_otherwise(self, text):
        try:
            spec.parse(text, option="x")
        except UserError:
            pass

    names = st.from_regex(r"op_[a-z]{1,5}", fullmatch=True)
    numbers = st.integers(-1000, 1000).map(lambda n: n / 8)
    calls = st.builds(Call, names, st.lists(numbers, max_size=3).map(tuple))

    @given(st.lists(calls, min_size=1, max_size=5))
    def test_reads_what_it_prints(self, chain):
        assert spec.parse("|".join(map(str, chain)), option="x") == tuple(chain)


@dataclasses.dataclass(frozen=True)
class Sample:
    source: tuple[str, ...] = option("where")
    count: int = option("how many", 3)
    rate: float = option("how fast", 0.1)
    loud: bool = option("whether to shout", False)
    mode: str = option("which", "a", choices=("a", "b"))


def parse(*arguments):
    values = flags.FlagValues()
    options.define_flags(Sample, values)
    values(["program", *arguments])
    return options.from_flags(Sample, values)


class TestOptions:
    def test_flags_become_the_dataclass(self):
        parsed = parse("--source=x", "--source=y", "--count=4", "--loud", "--mode=b")
        assert parsed == Sample(source=("x", "y"), count=4, loud=True, mode="b")

    @pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
    def test_numbers_are_finite(self, number):
        with pytest.raises(flags.IllegalFlagValueError, match=r"rate=.*finite"):
            parse("--source=x", f"--rate={number}")

    def test_a_home_folder_is_one_wherever_a_path_begins(self, monkeypatch):
        monkeypatch.setenv("HOME", "/home/me")
        given = [
            "~/a,~/b",
            "one=~/a",
            "csv:~/x.csv",
            "~",
            "a~/b",
            "https://x/~/y",
            "~no-such-user/a",
        ]
        parsed = parse(*(f"--source={each}" for each in given))
        assert parsed.source == (
            *("/home/me/a,/home/me/b", "one=/home/me/a", "csv:/home/me/x.csv", "/home/me"),
            *given[4:],
        )

    def test_a_text_that_is_not_utf8_is_named(self):
        with refused("--source=.*caf.* is not UTF-8"):
            parse(f"--source={os.fsdecode(b'caf' + bytes([0xE9]))}")

    def test_a_missing_required_flag_is_named(self):
        with refused("--source is missing: where"):
            parse("--count=4")

    def test_json_gives_the_same_back(self):
        sample = Sample(source=("x",), rate=1e-4)
        assert options.from_json(Sample, options.to_json(sample), where="f") == sample

    def test_json_with_an_unknown_or_missing_option_is_refused(self):
        with refused("f: unknown option 'sources', missing option 'source'"):
            options.from_json(Sample, {"sources": ["x"]}, where="f")

    def test_help_names_every_flag_its_default_and_choices(self):
        text = options.describe_flags(Sample)
        for part in ("--source=<required>", "--count=3", "--loud=false", "one of a, b"):
            assert part in text

    def test_the_short_help_describes_common_flags_and_names_the_others_below_headings(self):
        @dataclasses.dataclass
        class Grouped:
            records: str = option("folder to read")
            size: int = option("side of an image", 3, group="Images")
            seed: int = option("seed of the noise", 0)
            rate: float = option("rate of learning", 0.1, group="Speed", common=True)
            decay: float = option("how it falls", 0.0)

        short = options.describe_flags(Grouped, full=False)
        assert "folder to read" in short
        assert "rate of learning" in short
        assert [line.split() for line in short.splitlines()[-2:]] == [
            ["Images:", "--size", "--seed"],
            ["Speed:", "--decay"],
        ]
        full = options.describe_flags(Grouped)
        for field in dataclasses.fields(Grouped):
            assert full.count(f"--{field.name}=") == 1
            assert field.metadata["help"] in full


class TestStorage:
    def test_a_folder_appears_only_when_whole(self, tmp_path):
        path = tmp_path / "deep" / "folder"
        with pytest.raises(RuntimeError), storage.atomic_folder(path) as work:
            (work / "a").write_text("half")
            raise RuntimeError
        assert not path.exists()
        assert not list(path.parent.iterdir())
        with storage.atomic_folder(path) as work:
            (work / "a").write_text("whole")
            assert not path.exists()
        assert (path / "a").read_text() == "whole"

    def test_a_folder_that_is_there_is_kept_unless_replaced(self, tmp_path):
        path = tmp_path / "folder"
        for text in ("first", "second"):
            with storage.atomic_folder(path, replace=True) as work:
                (work / text).write_text(text)
        assert [p.name for p in path.iterdir()] == ["second"]
        with pytest.raises(UserError, match="exists already"), storage.atomic_folder(path):
            pass
        assert os.listdir(tmp_path) == ["folder"]

    def test_a_folder_that_cannot_be_written_to_is_named(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="file"), storage.atomic_folder(tmp_path / "file" / "x"):
            pass

    @pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
    def test_a_json_file_that_is_none_is_named(self, tmp_path, content):
        path = tmp_path / "x.json"
        if content is not None:
            path.write_bytes(content)
        with refused(r"x\.json.*do this"):
            storage.read_json(path, what="a thing", hint="do this")


def test_options_in_backticks_become_flags():
    message = "`epochs=-1` is negative; see `records` and `python -m tfpipe.train`"
    assert as_flags(message, ("epochs",)) == (
        "--epochs=-1 is negative; see `records` and `python -m tfpipe.train`"
    )


def test_one_line_escapes_what_would_break_the_line():
    assert one_line("a\nb\x1b[31m\t\u2028ä") == "a\\nb\\x1b[31m\\t\\u2028ä"
