"""Plots of a backbone's layers: its first filters, and its feature maps of an image."""

import numpy as np
import tensorflow as tf
import tf_keras

from tfpipe.model.classifier import Backbone, as_list
from tfpipe.model.describe import blocks
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.page.figure import canvas, escaped

FILTERS, FEATURE_MAPS = "filters", "feature_maps"
PLOTS = (FEATURE_MAPS, FILTERS)

MAX_FILTERS = 64
MAX_MAPS = 16  # of a block: those that vary most over the image
DEPTHS = 4  # blocks of a backbone, evenly spaced
_TILE = 48  # smallest side of a tile in pixels


def towers(predictor: Predictor | EnsemblePredictor) -> tuple[tuple[Backbone, ...], int]:
    """Return the towers of the first classifier, and the side of its input in pixels."""
    while isinstance(predictor, EnsemblePredictor):
        predictor = predictor.members[0]
    return predictor.classifier.backbones, predictor.image_size


def filters(tower: Backbone) -> bytes | None:
    """Draw the kernels of a backbone's first convolution as colours, each scaled to 0..1.

    Returns:
        A PNG file, or None if no convolution has three input channels.
    """
    for layer in tower.model.layers:
        kernel = layer.get_weights()[0] if isinstance(layer, tf_keras.layers.Conv2D) else None
        if kernel is not None and kernel.ndim == 4 and kernel.shape[2] == 3:
            break
    else:
        return None
    height, width, _, count = kernel.shape
    kernels = np.moveaxis(kernel, 3, 0)[:MAX_FILTERS]
    which = f"{len(kernels)} of {count}" if len(kernels) < count else f"{count}"
    title = f"{tower.name}: {which} filters of {layer.name}, {height} x {width}"
    return _tiles(title, [("", _scaled(kernels))], columns=16)


def feature_maps(tower: Backbone, image: np.ndarray, name: str) -> bytes:
    """Draw the feature maps of an image after some blocks of a backbone.

    Args:
        tower: of the backbone.
        image: uint8 [S, S, 3], RGB.
        name: of the image.

    Returns:
        A PNG file.
    """
    ends = {
        block: layers[-1]
        for block, layers in blocks(tower.model).items()
        if not isinstance(layers[-1].output, list) and layers[-1].output.shape.rank == 4
    }
    names = list(ends)
    places = np.linspace(0, len(names) - 1, min(DEPTHS, len(names))).round().astype(int)
    chosen = [names[place] for place in dict.fromkeys(places.tolist())]
    model = tf_keras.Model(tower.model.inputs, [ends[block].output for block in chosen])
    prepared = tower.prepare(tf.cast(image[np.newaxis], tf.float32))
    rows = []
    for block, found in zip(chosen, as_list(model(prepared, training=False)), strict=True):
        maps = np.moveaxis(found.numpy()[0], 2, 0).astype(np.float32)
        order = np.argsort(-maps.std(axis=(1, 2)), kind="stable")[:MAX_MAPS]
        title = f"{block}, {maps.shape[1]} x {maps.shape[2]} x {maps.shape[0]}"
        rows.append((title, _scaled(maps[order])))
    return _tiles(f"{tower.name}: feature maps of {name}", rows, columns=MAX_MAPS // 2)


def _scaled(tiles: np.ndarray) -> np.ndarray:
    """Return tiles [n, ...], each scaled to 0..1."""
    axes = tuple(range(1, tiles.ndim))
    low, high = tiles.min(axis=axes, keepdims=True), tiles.max(axis=axes, keepdims=True)
    return (tiles - low) / np.maximum(high - low, 1e-12)


def _tiles(title: str, rows: list[tuple[str, np.ndarray]], columns: int) -> bytes:
    """Draw groups of small images, [n, h, w] or [n, h, w, 3] in 0..1, each below its name."""
    heights = [-(-len(tiles) // columns) for _, tiles in rows]
    inch = 9.4 / columns
    with canvas(inch * sum(heights) + 0.32 * len(rows) + 0.45, 9.9) as (figure, done):
        figure.suptitle(escaped(title, 80), x=0.012, ha="left", size=10.5, weight="bold")
        grid = figure.subplots(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes, (name, tiles) in zip(grid, rows, strict=True):
            axes.set_title(escaped(name, 60), size=9, weight="normal")
            axes.imshow(_mosaic(tiles, columns), interpolation="nearest")
            axes.axis("off")
    return done.getvalue()


def _mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Return one image of all tiles, in rows with white gaps: float [H, W, 3] in 0..1."""
    from matplotlib import colormaps

    colors = tiles if tiles.ndim == 4 else colormaps["viridis"](tiles)[..., :3]
    factor = max(1, -(-_TILE // colors.shape[1]))  # enlarges small tiles, so that gaps are thin
    colors = colors.repeat(factor, axis=1).repeat(factor, axis=2)
    gap = max(1, colors.shape[1] // 16)
    missing = -len(colors) % columns
    colors = np.pad(colors, ((0, missing), (0, gap), (0, gap), (0, 0)), constant_values=1)
    _, height, width, _ = colors.shape
    table = colors.reshape(-1, columns, height, width, 3).swapaxes(1, 2)
    return table.reshape(-1, columns * width, 3)
