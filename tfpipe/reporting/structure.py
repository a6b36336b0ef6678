"""What a model is made of: its backbones block by block, frozen or trained, and its head, drawn."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from tfpipe.model import describe, partition
from tfpipe.model.classifier import Classifier, Prepare
from tfpipe.page.figure import COLORS, GREY, INK, canvas, escaped
from tfpipe.training.precision import under
from tfpipe.training.run import Run

FROZEN = -1  # in place of the number of a stage
MAX_ROWS = 26  # of a drawn tower; more blocks are drawn some at a time

# The stages' colours; frozen is grey. Of orange and its like on, text would need another colour.
_FROZEN_COLOR = "#c9ced6"
_STAGE_COLORS = (COLORS[1], COLORS[4], COLORS[2], COLORS[5], COLORS[3], COLORS[0])


@dataclasses.dataclass(frozen=True)
class Block:
    """One row of the structure.

    Attributes:
        name: of the block, or of a layer of the head.
        shape: of its output, without the batch: "14 x 14 x 512".
        parameters: how many it has.
        trained: how many of them are trained in some stage.
        stage: the number of the stage that trains it first, or FROZEN.
    """

    name: str
    shape: str
    parameters: int
    trained: int
    stage: int


@dataclasses.dataclass(frozen=True)
class Structure:
    """A model.

    Attributes:
        towers: the blocks of each backbone in their order, by "name, side x side".
        head: the layers behind them, from the pooling to the logits.
        stages: the names of the stages, each with how many parameters it trains.
        parameters: of all.
    """

    towers: dict[str, list[Block]]
    head: list[Block]
    stages: dict[str, int]
    parameters: int


def build(run: Run) -> tuple[Classifier, Structure]:
    """Builds a run's classifier, without its weights, and finds what each stage trains.

    Raises:
        UserError: a model file of it is missing.
    """
    with under("float32"):
        built = run.build(first_weights=False)
    return built, of(run, built)


def of(run: Run, built: Classifier) -> Structure:
    """Returns the structure of a run's classifier; its layers' `trainable` is set."""
    first_stage: dict[int, int] = {}  # by the identity of a trained variable
    stages = {}
    for stage in run.stages:
        batch_norm = stage.config.batch_norm == "trained"
        parts = partition.partition(built, stage.start, batch_norm=batch_norm)
        stages[stage.name] = parts.parameters
        for variable in parts.trained.trainable_variables:
            first_stage.setdefault(id(variable), stage.index)

    def block(name: str, layers: Sequence[tf_keras.layers.Layer], output: Any = None) -> Block:
        shape = layers[-1].output_shape if output is None else output
        weights = [weight for layer in layers for weight in layer.weights]
        trained = [weight for weight in weights if id(weight) in first_stage]
        return Block(
            name,
            _shape(shape),
            _count(weights),
            _count(trained),
            min((first_stage[id(weight)] for weight in trained), default=FROZEN),
        )

    towers = {}
    head = []
    for layer in built.features.layers:
        if isinstance(layer, tf_keras.layers.InputLayer | Prepare):
            continue
        if isinstance(layer, tf_keras.Model):
            side = layer.input_shape[1]
            members = describe.blocks(layer)
            title = f"{layer.name}, {side} x {side}"
            towers[title] = [block(name, layers) for name, layers in members.items()]
        else:
            head.append(block(layer.name, [layer]))
    head += [
        block(layer.name, [layer])
        for layer in built.head.layers
        if not isinstance(layer, tf_keras.layers.InputLayer)
    ]
    return Structure(towers, head, stages, built.model.count_params())


def draw(structure: Structure) -> bytes:
    """Draws the towers side by side, their blocks from top to bottom, and the head below.

    A block's bar is as long as the share of its parameters in the largest block's, and filled as
    far as they are trained.

    Returns:
        A PNG file.
    """
    towers = {name: _merged(blocks) for name, blocks in structure.towers.items()}
    rows = max(len(blocks) for blocks in towers.values())
    columns = max(len(towers), 1)
    head = _merged(structure.head)
    most = max(
        (block.parameters for blocks in [*towers.values(), head] for block in blocks), default=1
    )
    width = 6.4 if columns == 1 else 4.6 * columns
    height = 0.225 * (rows + len(head)) + 1.7
    with canvas(height, width) as (figure, done):
        grid = figure.add_gridspec(2, columns, height_ratios=[rows + 0.9, len(head) + 0.9])
        for index, (name, blocks) in enumerate(towers.items()):
            axes = figure.add_subplot(grid[0, index], title=escaped(name, 44))
            _ladder(axes, blocks, rows, most)
        axes = figure.add_subplot(grid[1, :])
        axes.set_title("head" if columns == 1 else "head, on all of them joined")
        _ladder(axes, head, len(head), most, columns)
        _key(figure, structure)
    return done.getvalue()


def alt(structure: Structure) -> str:
    """Returns the drawing in words."""
    towers = "; ".join(f"{name}: {len(blocks)} blocks" for name, blocks in structure.towers.items())
    trained = ", ".join(f"{count:,} in stage {name}" for name, count in structure.stages.items())
    return (
        f"Rows of blocks with bars for their parameters. {towers}. {structure.parameters:,}"
        f" parameters, of which are trained: {trained}."
    )


def _ladder(axes, blocks: Sequence[Block], rows: int, most: int, columns: int = 1) -> None:
    """Draws blocks as rows: the name, the shape of the output, a bar, and the parameters."""
    left, bar = 0.5 / columns, 0.3 / columns  # in shares of the width
    axes.set(xlim=(0, 1), ylim=(rows - 0.4, -0.6))
    axes.axis("off")
    for row, block in enumerate(blocks):
        ink = GREY if block.stage == FROZEN else INK
        axes.text(0, row, escaped(block.name, 26), size=8, va="center", color=ink)
        axes.text(left - 0.015 / columns, row, block.shape, size=8, va="center", ha="right",
                  color=GREY)  # fmt: skip
        if not block.parameters:
            continue
        length = max(bar * block.parameters / most, 0.004 / columns)
        filled = length * block.trained / block.parameters
        axes.barh(row, length, 0.62, left, color=_FROZEN_COLOR)
        if block.stage != FROZEN:
            axes.barh(row, max(filled, 0.004 / columns), 0.62, left, color=_color(block.stage))
        axes.text(left + length + 0.01 / columns, row, f"{block.parameters:,}", size=8,
                  va="center", color=ink)  # fmt: skip


def _key(figure, structure: Structure) -> None:
    from matplotlib.patches import Patch

    keys = [Patch(color=_FROZEN_COLOR, label="frozen")]
    keys += [
        Patch(color=_color(index), label=f"trained from stage {escaped(name, 16)} on")
        for index, name in enumerate(structure.stages)
    ]
    if len(structure.stages) == 1:
        keys[-1].set_label("trained")
    figure.legend(handles=keys, loc="outside lower left", ncols=3)


def _color(stage: int) -> str:
    return _STAGE_COLORS[stage % len(_STAGE_COLORS)]


def _merged(blocks: list[Block]) -> list[Block]:
    """Returns at most MAX_ROWS blocks: neighbours of the same stage become one where need be."""
    while len(blocks) > MAX_ROWS:
        pairs = [
            index
            for index in range(len(blocks) - 1)
            if blocks[index].stage == blocks[index + 1].stage
        ]
        if not pairs:
            return blocks
        # Of the pairs the smallest, so that what is large keeps a row of its own.
        index = min(pairs, key=lambda i: blocks[i].parameters + blocks[i + 1].parameters)
        blocks = [*blocks[:index], _joined(blocks[index : index + 2]), *blocks[index + 2 :]]
    return blocks


def _joined(pair: Sequence[Block]) -> Block:
    first, last = pair
    name = f"{first.name.split(' ... ')[0]} ... {last.name.split(' ... ')[-1]}"
    return Block(
        name,
        last.shape,
        first.parameters + last.parameters,
        first.trained + last.trained,
        last.stage,
    )


def _count(variables: Iterable[tf.Variable]) -> int:
    unique = {id(variable): variable for variable in variables}
    return sum(int(variable.shape.num_elements()) for variable in unique.values())


def _shape(output: Any) -> str:
    shapes = output if isinstance(output, list) else [output]
    return ", ".join(" x ".join(map(str, shape[1:])) for shape in shapes)
