"""First weights from another run: its backbones, and its head if it has the same classes."""

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.model.classifier import Classifier
from tfpipe.training import resolve, resume, run_folder
from tfpipe.training.run_folder import RunFolder


def are_kept(run: RunFolder) -> bool:
    """Return whether a training is resumed whose first weights came from other runs."""
    return resume.begun(str(run.folder)) is not None and run.first_weights.is_file()


def take(run: RunFolder, built: Classifier) -> list[RunFolder]:
    """Set the weights that `weights` takes from other runs; return these runs.

    A resumed training takes them from its own folder, and needs the other runs no more.

    Args:
        run: to be trained.
        built: its classifier, whose other weights are set.

    Raises:
        UserError: another run is not finished, or has another backbone.
    """
    if are_kept(run):
        run.load_first(built)
        return []
    paths = dict.fromkeys(
        branch["weights"] for branch in run.resolved.branches if resolve.is_run(branch["weights"])
    )
    others = {path: _open(path) for path in paths}
    for path, other in others.items():
        source = other.restore_classifier()
        names = _take_backbones(run, built, path, other, source)
        differs = "it is of one backbone of several"
        if len(names) == len(run.resolved.branches):
            differs = _difference(run, built, other, source)
        if differs:
            terminal.say(f"first weights of {path}: {', '.join(names)}; the head is new: {differs}")
        else:
            built.head.set_weights(source.head.get_weights())
            terminal.say(f"first weights of {path}: {', '.join(names)} and the head")
    return list(others.values())


def _open(path: str) -> RunFolder:
    if not resolve.is_single_run(path):
        raise UserError(
            f"`weights={path}` is an ensemble or a cross-validation: name one run of it, as"
            f" {path}/fold-0"
        )
    other = run_folder.load(path)
    other.check_parts()
    return other


def _take_backbones(
    run: RunFolder, built: Classifier, path: str, other: RunFolder, source: Classifier
) -> list[str]:
    """Copy the backbones that come from a run; return their names."""
    known = {resolve.plain(branch): each for branch, each in _pairs(other, source)}
    taken = []
    for branch, backbone in _pairs(run, built):
        if branch["weights"] != path:
            continue
        name = resolve.plain(branch)
        if name not in known:
            raise UserError(
                f"`weights`: {path} has {', '.join(known)}, not {name}: name another run, or give"
                f" `weights` for each backbone, as {name}=imagenet"
            )
        try:
            backbone.model.set_weights(known[name].model.get_weights())
        except ValueError:
            raise UserError(
                f"`weights`: {name} of {path} is of another `image_size`, on which its weights"
                " depend: give the same"
            ) from None
        taken.append(name)
    return taken


def _pairs(run: RunFolder, built: Classifier) -> list[tuple[dict, object]]:
    return list(zip(run.resolved.branches, built.backbones, strict=True))


def _difference(run: RunFolder, built: Classifier, other: RunFolder, source: Classifier) -> str:
    """Return why a head cannot be taken, or ""."""
    if run.classes != other.classes:
        return f"the classes are {', '.join(run.classes)} instead of {', '.join(other.classes)}"
    for name in ("pooling", "head"):
        now, before = getattr(run.config, name), getattr(other.config, name)
        if now != before:
            return f"`{name}={now}` instead of {before}"
    shapes = [[weight.shape for weight in each.head.get_weights()] for each in (built, source)]
    if built.output != source.output or shapes[0] != shapes[1]:
        return "its output or the number of its features differs"
    return ""
