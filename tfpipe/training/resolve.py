"""Resolves options against the records, once for all later commands."""

import collections
import os
import pathlib

from tfpipe.core import remote
from tfpipe.core.errors import UserError
from tfpipe.images import pixels
from tfpipe.model import backbones, classifier
from tfpipe.records.manifest import Manifest
from tfpipe.records.subset import Subset
from tfpipe.training import stages
from tfpipe.training.train_config import Resolved, TrainConfig


def branches(config: TrainConfig) -> tuple[dict, ...]:
    """Resolve the options `backbones`, `image_size` and `weights`; raise UserError if one is wrong.

    Returns:
        For each backbone its name, input side in pixels, and first weights. A model file has its
        own weights.
    """
    found = [backbones.get(text) for text in config.backbones.split(",")]
    names = [backbone.name for backbone in found]
    if len(set(names)) < len(names):
        raise UserError(f"`backbones={config.backbones}`: name each backbone once")
    files = {backbone.path for backbone in found if backbone.path}
    if len({pathlib.Path(path).name for path in files}) < len(files):
        raise UserError(
            f"`backbones={config.backbones}`: two model files have one name: rename one of them"
        )
    others = [backbone for backbone in found if not backbone.path]
    weights = _per_backbone("weights", config.weights, others) if others else {}
    sizes = _per_backbone("image_size", config.image_size, found)
    return tuple(
        {
            "name": backbone.text,
            "size": _size(sizes[backbone.name], backbone),
            "weights": _file_weights(backbone, config) or weights[backbone.name],
        }
        for backbone in found
    )


def last_stage(config: TrainConfig) -> TrainConfig:
    """Return the options of the last stage, whose `image_size` is that of the trained model."""
    return stages.parse(config)[-1].config


def is_run(weights: str) -> bool:
    """Return whether the value of `weights` is the folder of a run, or of several."""
    return is_single_run(weights) or any(
        (pathlib.Path(weights) / name).is_file() for name in ("folds.json", "ensemble.json")
    )


def is_single_run(weights: str) -> bool:
    """Return whether the value of `weights` is the folder of one run."""
    return (pathlib.Path(weights) / "config.json").is_file()


def plain(branch: dict) -> str:
    """Return the name of a resolved backbone, without the folder of a model file."""
    return pathlib.Path(branch["name"]).name


def _file_weights(backbone: backbones.Architecture, config: TrainConfig) -> str:
    """Return the weights of a model file: its own, or those of a run."""
    return backbone.path and (config.weights if is_run(config.weights) else backbone.path)


def parts(config: TrainConfig, manifest: Manifest) -> tuple[Subset, Subset]:
    """Return the records to train on and to validate on; raise UserError if there are none."""
    splits = (config.train_split, config.val_split)
    if config.fold < 0:
        return Subset(manifest, splits[:1]), Subset(manifest, splits[1:])
    held_out = Subset(manifest, splits, config.fold, held_out=True)
    return Subset(manifest, splits, config.fold), held_out


def resolve(config: TrainConfig, manifest: Manifest, precision: str, xla: bool) -> Resolved:
    """Resolve the options of a run on some records; raise UserError if they do not fit."""
    encoding = manifest.encoding
    output = classifier.choose_output(config.output, encoding.classes, many=encoding.many)
    train, _ = parts(config, manifest)
    return Resolved(
        classes=manifest.classes,
        class_shares=tuple(count / train.count for count in train.class_counts.values()),
        branches=branches(last_stage(config)),
        output=output,
        records_fingerprint=manifest.fingerprint,
        precision=precision,
        xla=xla,
        depth16=manifest.arguments.get("depth16", pixels.FULL),
        records=config.records
        if remote.is_remote(config.records)
        else os.path.abspath(config.records),
        labels=manifest.labels,
    )


def _per_backbone(option: str, text: str, found: list[backbones.Architecture]) -> dict[str, str]:
    """Read an option with one value for all backbones, or `name=value` for each.

    The name of the whole backbone is enough for a cut one, unless two have it.
    """
    names = [backbone.name for backbone in found]
    shorts = collections.Counter(backbone.short_name for backbone in found)
    plain = {
        backbones.plain_name(backbone.short_name): backbone.name
        for backbone in found
        if shorts[backbone.short_name] == 1
    }
    plain |= {backbones.plain_name(name): name for name in names}
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1 and backbones.plain_name(text.split("=")[0]) not in plain:
        return dict.fromkeys(names, text)
    values = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or backbones.plain_name(name) not in plain:
            raise UserError(
                f"`{option}`: {part!r} is not name=value with the name of a backbone"
                f" ({', '.join(names)})"
            )
        values[plain[backbones.plain_name(name)]] = value
    missing = [name for name in names if name not in values]
    if missing:
        raise UserError(f"`{option}={text}` has no value for {missing[0]}: add {missing[0]}=VALUE")
    return values


def _size(text: str, backbone: backbones.Architecture) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UserError(
            f"`image_size={text}`: give a side in pixels, or 0 for {backbone.name}'s own"
        )
    size = int(text) or backbone.input_size
    if not size:
        raise UserError(
            f"`image_size={text}`: {backbone.path} takes images of any size: give a side in pixels"
        )
    return size
