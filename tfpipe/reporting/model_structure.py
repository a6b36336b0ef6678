"""The structure of a model as a drawing: backbones by block, head, frozen and trained parts."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from tfpipe.model import describe, partition
from tfpipe.model.classifier import Prepare
from tfpipe.model.precision import under
from tfpipe.page.figure import COLORS, GREY, INK, canvas, escaped
from tfpipe.training.run_folder import RunFolder

FROZEN = -1  # in place of a stage's number
MAX_ROWS = 26  # of a drawn backbone; more blocks are merged

_FROZEN_COLOR = "#c9ced6"
_STAGE_COLORS = (COLORS[1], COLORS[4], COLORS[2], COLORS[5], COLORS[3], COLORS[0])


@dataclasses.dataclass(frozen=True)
class Block:
    """One row of the drawing.

    Attributes:
        name: of the block, or of a layer of the head.
        shape: of its output without the batch: "14 x 14 x 512".
        parameters: their number.
        trained: the number of parameters that some stage trains.
        stage: the first stage that trains one of them, or FROZEN.
    """

    name: str
    shape: str
    parameters: int
    trained: int
    stage: int


@dataclasses.dataclass(frozen=True)
class ModelStructure:
    """A model.

    Attributes:
        backbones: the blocks of each backbone in order, by "name, side x side".
        head: the layers from the pooling to the logits.
        stages: the number of parameters that each stage trains, by the stage's name.
        parameters: the number of all parameters.
    """

    backbones: dict[str, list[Block]]
    head: list[Block]
    stages: dict[str, int]
    parameters: int

    @property
    def alt(self) -> str:
        """The drawing in words."""
        backbones = "; ".join(
            f"{name}: {len(rows)} blocks" for name, rows in self.backbones.items()
        )
        trained = ", ".join(f"{count:,} in stage {name}" for name, count in self.stages.items())
        return (
            f"Rows of blocks with bars for their parameters. {backbones}. {self.parameters:,}"
            f" parameters; trained: {trained}."
        )


def build(run: RunFolder) -> ModelStructure:
    """Build a run's classifier without its weights, and find the parameters of each stage.

    Raises:
        UserError: a model file of it is missing.
    """
    with under("float32"):
        built = run.build(first_weights=False)
    first_stage: dict[int, int] = {}  # by the identity of a trained variable
    stages = {}
    for stage in run.stages:
        batch_norm = stage.config.batch_norm == "trained"
        parts = partition.partition(built, stage.start, batch_norm=batch_norm)
        stages[stage.name] = parts.parameters
        for variable in parts.trained.trainable_variables:
            first_stage.setdefault(id(variable), stage.index)

    def block(name: str, layers: Sequence[tf_keras.layers.Layer]) -> Block:
        weights = [weight for layer in layers for weight in layer.weights]
        trained = [weight for weight in weights if id(weight) in first_stage]
        stage = min((first_stage[id(weight)] for weight in trained), default=FROZEN)
        return Block(name, _shape(layers[-1].output_shape), _count(weights), _count(trained), stage)

    backbones, head = {}, []
    for layer in (*built.features.layers, *built.head.layers):
        if isinstance(layer, tf_keras.layers.InputLayer | Prepare):
            continue
        if isinstance(layer, tf_keras.Model):
            side = layer.input_shape[1]
            members = describe.blocks(layer)
            backbones[f"{layer.name}, {side} x {side}"] = [
                block(name, layers) for name, layers in members.items()
            ]
        else:
            head.append(block(layer.name, [layer]))
    return ModelStructure(backbones, head, stages, built.model.count_params())


def draw(structure: ModelStructure) -> bytes:
    """Draw the backbones side by side, their blocks from top to bottom, and the head below.

    The length of a bar shows the block's parameters; its coloured part shows the trained ones.

    Returns:
        A PNG file.
    """
    backbones = {name: merged(blocks) for name, blocks in structure.backbones.items()}
    rows = max(len(blocks) for blocks in backbones.values())
    columns = max(len(backbones), 1)
    head = merged(structure.head)
    drawn = [block for blocks in [*backbones.values(), head] for block in blocks]
    most = max((block.parameters for block in drawn), default=1)
    width = 6.4 if columns == 1 else 4.6 * columns
    height = 0.225 * (rows + len(head)) + 1.7
    with canvas(height, width) as (figure, done):
        grid = figure.add_gridspec(2, columns, height_ratios=[rows + 0.9, len(head) + 0.9])
        for index, (name, blocks) in enumerate(backbones.items()):
            axes = figure.add_subplot(grid[0, index], title=escaped(name, 44))
            _draw_rows(axes, blocks, rows, most)
        axes = figure.add_subplot(grid[1, :])
        axes.set_title("head" if columns == 1 else "head, on the features of all backbones")
        _draw_rows(axes, head, len(head), most, columns)
        _legend(figure, structure)
    return done.getvalue()


def merged(blocks: list[Block]) -> list[Block]:
    """Return at most MAX_ROWS blocks, if enough neighbours of the same stage can be merged.

    The smallest pairs merge first, so that large blocks keep rows of their own.
    """
    while len(blocks) > MAX_ROWS:
        pairs = [
            (first.parameters + second.parameters, index)
            for index, (first, second) in enumerate(itertools.pairwise(blocks))
            if first.stage == second.stage
        ]
        if not pairs:
            return blocks
        _, index = min(pairs)
        blocks = [*blocks[:index], _merge(*blocks[index : index + 2]), *blocks[index + 2 :]]
    return blocks


def _merge(first: Block, second: Block) -> Block:
    name = f"{first.name.split(' ... ')[0]} ... {second.name.split(' ... ')[-1]}"
    parameters = first.parameters + second.parameters
    return Block(name, second.shape, parameters, first.trained + second.trained, second.stage)


def _draw_rows(axes, blocks: Sequence[Block], rows: int, most: int, columns: int = 1) -> None:
    """Draw a row for each block: name, output shape, bar, number of parameters."""
    left, bar, least = 0.5 / columns, 0.3 / columns, 0.004 / columns  # in shares of the width
    axes.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6))
    axes.axis("off")
    for row, block in enumerate(blocks):
        ink = GREY if block.stage == FROZEN else INK
        style = {"size": 8, "va": "center"}
        axes.text(0, row, escaped(block.name, 26), color=ink, **style)
        axes.text(left - 0.015 / columns, row, block.shape, ha="right", color=GREY, **style)
        if not block.parameters:
            continue
        length = max(bar * block.parameters / most, least)
        axes.barh(row, length, 0.62, left, color=_FROZEN_COLOR)
        if block.stage != FROZEN:
            filled = max(length * block.trained / block.parameters, least)
            axes.barh(row, filled, 0.62, left, color=_color(block.stage))
        end = left + length + 0.01 / columns
        axes.text(end, row, f"{block.parameters:,}", color=ink, **style)


def _legend(figure, structure: ModelStructure) -> None:
    from matplotlib.patches import Patch

    names = [f"trained from stage {escaped(name, 16)} on" for name in structure.stages]
    if len(names) == 1:
        names = ["trained"]
    keys = [Patch(color=_FROZEN_COLOR, label="frozen")]
    keys += [Patch(color=_color(index), label=name) for index, name in enumerate(names)]
    figure.legend(handles=keys, loc="outside lower left", ncols=3)


def _color(stage: int) -> str:
    return _STAGE_COLORS[stage % len(_STAGE_COLORS)]


def _count(variables: Iterable[tf.Variable]) -> int:
    unique = {id(variable): variable for variable in variables}
    return sum(int(variable.shape.num_elements()) for variable in unique.values())


def _shape(output: Any) -> str:
    shapes = output if isinstance(output, list) else [output]
    return ", ".join(" x ".join(map(str, shape[1:])) for shape in shapes)
