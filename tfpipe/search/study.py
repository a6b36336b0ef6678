"""The trials of a search in Optuna's storage, from which an interrupted search continues."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from tfpipe.core import extras
from tfpipe.core.errors import UserError
from tfpipe.search.space import Space
from tfpipe.search.trial import Trial

if TYPE_CHECKING:
    import optuna

STORAGE = "study.db"

_NAME = "tfpipe"
_OPTIONS, _RESULT = "options", "result"  # attributes of a trial


class Study:
    """Draws the options of the next trial from the results of those before.

    The sampler is a tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for
    Hyper-Parameter Optimization"), Optuna's default. Its random numbers follow from the seed and
    the number of the trial, so a resumed search draws what an uninterrupted one would.
    """

    def __init__(self, folder: pathlib.Path, space: Space, *, higher_is_better: bool, seed: int):
        """Open the study of a folder, or begin it.

        Raises:
            UserError: Optuna is not installed, or the file is not such a study.
        """
        with extras.needed("tune"):
            import optuna
            import sqlalchemy
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space, self._seed = optuna, space, seed
        path = folder / STORAGE
        try:
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
            optuna.create_study(
                study_name=_NAME,
                storage=self._storage,
                direction="maximize" if higher_is_better else "minimize",
                load_if_exists=True,
            )
        except (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path} is not the storage of a search ({reason}): give another `run_dir`"
            ) from None

    @property
    def trials(self) -> list[Trial]:
        """The finished trials, in their order."""
        results = (each.user_attrs.get(_RESULT) for each in self._load().get_trials())
        return [Trial.from_json(each) for each in results if each]

    def begin(self) -> tuple[int, dict[str, str]]:
        """Return the number and the options of the next trial: an interrupted one, or a new one."""
        state, study = self._optuna.trial.TrialState, self._load()
        for each in study.get_trials(states=(state.RUNNING,)):
            if _OPTIONS in each.user_attrs:
                return each.number + 1, each.user_attrs[_OPTIONS]
            study.tell(each.number, state=state.FAIL)  # interrupted while it was drawn
        trial = self._load(len(study.get_trials())).ask()
        options = self._space.draw(trial)
        trial.set_user_attr(_OPTIONS, options)
        return trial.number + 1, options

    def end(self, trial: Trial) -> None:
        """Record the result of a trial that `begin` returned."""
        number, storage = trial.number - 1, self._storage
        study = storage.get_study_id_from_name(_NAME)
        key = storage.get_trial_id_from_study_id_trial_number(study, number)
        storage.set_trial_user_attr(key, _RESULT, dataclasses.asdict(trial))
        if trial.error:
            self._load().tell(number, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._load().tell(number, trial.value)

    def _load(self, number: int = 0) -> "optuna.Study":
        """Return the study, with the sampler of a trial's number."""
        sampler = self._optuna.samplers.TPESampler(seed=(self._seed + number) % 2**32)
        return self._optuna.load_study(study_name=_NAME, storage=self._storage, sampler=sampler)
