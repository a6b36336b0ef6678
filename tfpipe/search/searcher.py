"""Searches for better options of a training, and judges the best trial against the base.

The folder has

    search.json       the base and the space
    base/             the run with the options of the base
    trial-N/          the run of the best trial so far; those of others are removed
    study.db          all trials, for Optuna
    trials.csv        the base and all trials, a row for each
    best.flags        the options of the best, for tfpipe.train
    features/         features of frozen layers, shared by all trials
    lock              held while a search runs here
"""

import dataclasses
import functools
import gc
import math
import pathlib
import shutil
import statistics
import time
from collections.abc import Sequence

import tf_keras

from tfpipe.core import options as command_options
from tfpipe.core import storage, terminal
from tfpipe.core.errors import ResumableError, UserError
from tfpipe.evaluation.metrics import LabeledPredictions, metrics
from tfpipe.records import manifest as manifests
from tfpipe.runs import trainer
from tfpipe.search import space as spaces
from tfpipe.search import verdict
from tfpipe.search.study import Study
from tfpipe.search.trial import LOG_LOSS, Trial, measure, predictions, write_csv
from tfpipe.training import monitor, run_folder, strategy
from tfpipe.training.cluster import Cluster
from tfpipe.training.train_config import TrainConfig

SEARCH, TRIALS, BEST = "search.json", "trials.csv", "best.flags"

_SHOWN = 10  # trials in the table

# Options that may change when a search is resumed.
_RESUMABLE = ("records", "run_dir", "feature_cache", "feature_gb", "decode_threads", "buffer_mb")


class Searcher:
    """A search in its folder, `run_dir` of the base."""

    def __init__(self, base: TrainConfig, space: str, minutes: float):
        """Prepare the search; nothing is written yet.

        Args:
            base: the options that trials start from.
            space: of the options that they draw; empty for the default.
            minutes: begin no trial that is expected to end later; 0 for no limit.

        Raises:
            UserError: the space or an option is wrong.
        """
        self._folder = pathlib.Path(base.run_dir)
        self._base = dataclasses.replace(
            base,
            run_dir=str(self._folder / "base"),
            feature_cache=base.feature_cache or str(self._folder / "features"),
            minutes=0.0,
        )
        self._space = spaces.parse(space, base)
        self._deadline = time.monotonic() + 60 * (minutes or math.inf)
        encoding = manifests.load(base.records).encoding
        if encoding.many:
            raise UserError(
                f"tfpipe.tune compares answers of one class, and images of {base.records} may have"
                " several: compare runs by `tfpipe evaluate --against`"
            )
        name = monitor.build(base, encoding).name
        self._metric = LOG_LOSS if name == monitor.VAL_LOSS else name
        self._sign = -1 if metrics[self._metric].higher_is_better else 1
        self._cluster = Cluster(strategy.choose(base.strategy))
        if self._cluster.workers > 1:
            raise UserError("tfpipe.tune runs on one machine: unset TF_CONFIG", status=2)

    def run(self, count: int) -> None:
        """Run trials until there are `count`, write the results, and print what they are worth."""
        with run_folder.locked(self._folder):
            self._check_same()
            better = metrics[self._metric].higher_is_better
            study = Study(self._folder, self._space, higher_is_better=better, seed=self._base.seed)
            base = self._train_base()
            done = study.trials
            self._write(base, done)
            while len(done) < count and self._has_time(done):
                done = self._one_trial(study, base, done, count)
            self._show(base, done, count)

    def _check_same(self) -> None:
        """Write what the search is, or raise UserError if the folder holds another one."""
        path = self._folder / SEARCH
        own = command_options.to_json(self._base)
        own = {name: value for name, value in own.items() if name not in _RESUMABLE}
        space = {each.option: list(each.templates) for each in self._space.dimensions}
        if not path.exists():
            others = {each.name for each in self._folder.iterdir()} - {run_folder.LOCK}
            if others:  # a search removes folders of its trials, so it has one of its own
                raise UserError(
                    f"`run_dir={self._folder}` holds no search but other files, as"
                    f" {min(others)}: give a new folder"
                )
            storage.write_json(path, {"base": own, "space": space})
            return
        before = storage.read_json(path, what="a search", hint="give another `run_dir`")
        if before.get("space") != space:
            raise UserError(
                f"{self._folder} holds a search in another space: give another `run_dir`, or the"
                " same `space` to continue it"
            )
        for name, value in own.items():
            if before.get("base", {}).get(name, value) != value:
                raise UserError(
                    f"{self._folder} holds a search with `{name}={before['base'][name]}`, now"
                    f" {value}: give another `run_dir`, or the same options to continue it"
                )

    def _train_base(self) -> Trial:
        terminal.say("the base, with the options as given:")
        trainer.train(self._base, self._cluster)
        return measure(0, {}, pathlib.Path(self._base.run_dir), self._metric)

    def _has_time(self, done: Sequence[Trial]) -> bool:
        """Return whether another trial is expected to end in time."""
        usual = statistics.median(each.seconds for each in done) if done else 0.0
        return time.monotonic() + usual < self._deadline

    def _one_trial(self, study: Study, base: Trial, done: list[Trial], count: int) -> list[Trial]:
        """Run the next trial; return all finished ones."""
        number, drawn = study.begin()
        folder = self._folder / f"trial-{number}"
        terminal.say(f"trial {len(done) + 1} of {count}: {_text(drawn)}")
        trial = self._train(number, drawn, folder)
        study.end(trial)
        done = study.trials
        self._write(base, done)
        best = self._best(base, done)
        for each in done:
            if each.number != best.number:
                shutil.rmtree(self._folder / f"trial-{each.number}", ignore_errors=True)
        if trial.error:
            terminal.warn(f"trial {len(done)} failed: {trial.error}")
        else:
            star = "  best so far" if best.number == number else ""
            terminal.say(
                f"trial {len(done)} of {count}: {self._title} {trial.value:.4f}, the base has"
                f" {base.value:.4f}{star}"
            )
        return done

    def _train(self, number: int, drawn: dict[str, str], folder: pathlib.Path) -> Trial:
        """Train a trial and measure it; a mistake in its options makes it a failed one."""
        tf_keras.backend.clear_session()  # the models of the trials before
        gc.collect()
        start = time.monotonic()
        try:
            config = spaces.with_options(self._base, drawn)
            with terminal.logged():
                trainer.train(dataclasses.replace(config, run_dir=str(folder)), self._cluster)
        except ResumableError:
            raise
        except UserError as error:
            return Trial(number, drawn, error=str(error))
        trial = measure(number, drawn, folder, self._metric, self._base_predictions)
        return dataclasses.replace(trial, seconds=time.monotonic() - start)

    @functools.cached_property
    def _base_predictions(self) -> LabeledPredictions:
        return predictions(pathlib.Path(self._base.run_dir))

    def _best(self, base: Trial, done: Sequence[Trial]) -> Trial:
        """Return the trial of the best value, or the base if none is better."""
        return min([base, *_valid(done)], key=lambda each: self._sign * each.value)

    @property
    def _title(self) -> str:
        return metrics[self._metric].title

    def _write(self, base: Trial, done: Sequence[Trial]) -> None:
        """Write trials.csv and best.flags."""
        write_csv(self._folder / TRIALS, [base, *done], self._metric)
        best = self._best(base, done)
        config = spaces.with_options(self._base, best.options)
        place = f"trial {best.number} of {len(done)}" if best.number else "the base"
        lines = [
            f"# Found by tfpipe.tune: {place}, {self._title} {best.value:.4f} on the validation"
            f" images; the base has {base.value:.4f}.",
            f"# python -m tfpipe.train --flagfile={self._folder / BEST} --records=records/NAME"
            " --run_dir=runs/NAME",
        ]
        if config.limit:
            lines.append(f"# The trials took {config.limit} images; this trains on all.")
        own = ("records", "run_dir", "feature_cache", "limit")
        for field in dataclasses.fields(TrainConfig):
            value = getattr(config, field.name)
            if value != field.default and field.name not in own:
                text = str(value).lower() if isinstance(value, bool) else value
                lines.append(f"--{field.name}={text}")
        with storage.atomic_file(self._folder / BEST) as file:
            file.write("\n".join(lines) + "\n")

    def _show(self, base: Trial, done: Sequence[Trial], count: int) -> None:
        """Print the table of the best trials, what the best is worth, and the next command."""
        valid = sorted(_valid(done), key=lambda each: self._sign * each.value)
        rows = [
            [
                each.number or "base",
                f"{each.value:.4f}",
                "" if each.interval is None else "{:+.4f} to {:+.4f}".format(*each.interval),
                f"{each.accuracy:.4f}",
                each.epochs,
                _text(each.options) or "as given",
            ]
            for each in [base, *valid[:_SHOWN]]
        ]
        columns = ["trial", self._title, "difference (95 %)", "accuracy", "epochs", "options"]
        terminal.show_table(f"search in {self._folder}", columns, rows)
        failed = [each for each in done if each.error]
        if failed:
            terminal.warn(f"{len(failed)} of {len(done)} trials failed: {failed[0].error}")
        if len(done) < count:
            terminal.say(
                f"{len(done)} of {count} trials: the minutes are over; the same command continues"
            )
        terminal.result(self._verdict(base, done))
        terminal.say(
            f"next: python -m tfpipe.train --flagfile={self._folder / BEST}"
            f" --records={self._base.records} --run_dir=runs/NAME"
        )

    def _verdict(self, base: Trial, done: Sequence[Trial]) -> str:
        """Return what the best trial is worth, in one line."""
        best, tried = self._best(base, done), len(_valid(done))
        if not best.number:
            return f"no trial of {tried} is better than the base: {BEST} has the base"
        name = f"trial {best.number}"
        own, other = predictions(self._folder / f"trial-{best.number}"), self._base_predictions
        return verdict.sentence(own, other, name=name, metric=self._metric, tried=tried)


def _valid(done: Sequence[Trial]) -> list[Trial]:
    return [each for each in done if each.value is not None]


def _text(drawn: dict[str, str]) -> str:
    return ", ".join(f"{name}={text}" for name, text in drawn.items())
