"""The classifier of each stage: one for each size of images, with the same weights.

Early stages on smaller images take less time (progressive resizing: Howard 2018, "Training Imagenet
in 3 hours for USD 25"). The run's own classifier has the size of the last stage.
"""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfpipe.core.errors import UserError
from tfpipe.model.classifier import Classifier
from tfpipe.training import randomness, resolve
from tfpipe.training.run_folder import RunFolder
from tfpipe.training.stages import Stage

Sides = tuple[int, ...]  # of the images of each backbone, in pixels


@dataclasses.dataclass(frozen=True)
class StageModel:
    """A classifier, the generators of its random layers, and the run as if it had its size."""

    run: RunFolder
    classifier: Classifier
    generators: Sequence[tf.random.Generator]


class StageModels:
    """The classifiers of a run, by the size of their images."""

    def __init__(
        self, run: RunFolder, classifier: Classifier, generators: Sequence[tf.random.Generator]
    ):
        """Build those of all stages, in the scope of the tf.distribute strategy.

        Args:
            run: of the training.
            classifier: at the size of the last stage, with the first weights.
            generators: of its random layers.

        Raises:
            UserError: a backbone cannot have the size, or its weights depend on it.
        """
        self._last = classifier
        self._models = {_sides(run.resolved.branches): StageModel(run, classifier, generators)}
        for stage in run.stages:
            sides = sides_of(stage)
            if sides not in self._models:
                self._models[sides] = _build(run, stage, classifier)

    def of(self, stage: Stage) -> StageModel:
        """Return the model of a stage."""
        return self._models[sides_of(stage)]

    def note(self, stage: Stage) -> str:
        """Return the size of a stage's images as text, if it is not that of the last stage."""
        side, last = self.of(stage).classifier.image_size, self._last.image_size
        return f", on images of {side} px; the model serves {last} px" if side != last else ""


def check(run: RunFolder, stage: Stage) -> None:
    """Raise UserError if a stage cannot have other images than the last one."""
    if sides_of(stage) != _sides(run.resolved.branches) and run.config.pooling == "flatten":
        raise UserError(
            f"`stages`: {stage.name} has its own image_size, but `pooling=flatten` makes a vector"
            " whose length depends on it: give `pooling=avg`"
        )


def sides_of(stage: Stage) -> Sides:
    """Return the sides of a stage's images; raise UserError if they are wrong."""
    return _sides(resolve.branches(stage.config))


def _sides(branches: Sequence[dict]) -> Sides:
    return tuple(branch["size"] for branch in branches)


def _build(run: RunFolder, stage: Stage, like: Classifier) -> StageModel:
    branches = tuple(
        branch | {"size": side}
        for branch, side in zip(run.resolved.branches, sides_of(stage), strict=True)
    )
    sized = dataclasses.replace(run, resolved=dataclasses.replace(run.resolved, branches=branches))
    with randomness.collect_generators() as generators:
        built = sized.build(first_weights=False)
    try:
        built.model.set_weights(like.model.get_weights())
    except ValueError as error:
        raise UserError(
            f"`stages`: {stage.name} cannot have its own image_size, because weights depend on it"
            f" ({str(error).splitlines()[0]}): leave it out"
        ) from None
    return StageModel(sized, built, generators)
