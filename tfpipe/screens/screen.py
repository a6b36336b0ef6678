"""What a screen is, what it is given, and what it returns."""

import abc
import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.core.registry import Registry
from tfpipe.images.image_info import ImageInfo

REPORT, DROP = "report", "drop"


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of all screens."""

    screens: str = option(
        "what looks for unsuitable images, separated by commas: size (outliers in width, height,"
        " area, aspect and bytes per pixel), imagenet (nothing expected among an ImageNet"
        " classifier's first guesses), labels (labels that the other images speak against); each"
        " writes screen-NAME.csv and screen-NAME.html",
        "",
    )
    screen_action: str = option(
        "what becomes of the images that a screen lists: report keeps them, drop leaves them out",
        REPORT,
        (REPORT, DROP),
    )
    screen_iqrs: float = option(
        "screen size: how many interquartile ranges beyond a quartile are too far", 1.5
    )
    screen_model: str = option(
        "screen imagenet: the classifier, a keras.applications name (its weights are downloaded) or"
        " a .keras file that takes RGB in 0..255 and gives the 1,000 ImageNet classes",
        "mobilenet",
    )
    screen_classes: str = option(
        "screen imagenet: the ImageNet classes that each class may look like, as in"
        " cat:281-285,dog:151-268 or boat:472+554+814; a class not named is not screened",
        "",
    )
    screen_top_k: int = option(
        "screen imagenet: how many of the classifier's guesses are searched for a class of"
        " --screen_classes, of whatever label",
        20,
    )
    screen_features: str = option(
        "screen labels: the frozen backbone whose features are compared", "mobilenet"
    )
    screen_weights: str = option(
        "screen labels: the backbone's weights: imagenet (downloaded), or the path of a"
        " weights-only .h5 file without the top",
        "imagenet",
    )
    screen_share: float = option(
        "screen labels: the share of all images to list, worst first; 0 lists those that cleanlab"
        " takes for wrongly labelled",
        0.02,
    )
    screen_cache: str = option(
        "a folder that keeps what the models make of the images, which takes minutes, for later"
        " builds; empty to keep it until this build is complete",
        "",
    )


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a data set, as the screens see them; all sequences have the same order.

    Attributes:
        found: a description of each.
        paths: where each is, for a person.
        labels: the class of each, as an index into `classes`.
        classes: names.
        read: from an index to the JPEG or PNG file that is stored; called from one thread at a
            time, though not always the same.
        cache: a folder that outlives an interrupted build, for what takes long to compute.
        groups: equal numbers for images that are duplicates of each other; None if there are none.
    """

    found: Sequence[ImageInfo]
    paths: Sequence[str]
    labels: Sequence[int]
    classes: tuple[str, ...]
    read: Callable[[int], bytes]
    cache: pathlib.Path
    groups: Sequence[int] | None = None


class Suspect(NamedTuple):
    """One image that a screen lists.

    Attributes:
        index: which, in `Images`.
        score: the higher, the more suspect; what it measures is the screen's `score`.
        reason: a phrase, for a person.
    """

    index: int
    score: float
    reason: str


class Screen(abc.ABC):
    """One way to look for unsuitable images.

    Attributes:
        name: as in --screens.
        question: what the screen asks of each image, for a person.
        score: what its scores measure, for a person.
        needs: modules of the extra `screen` that it imports.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    score: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def __init__(self, options: Options, classes: tuple[str, ...]):
        """Checks the options and loads what is needed; raises UserError before hours of work."""

    @abc.abstractmethod
    def find(self, images: Images) -> list[Suspect]:
        """Returns the images to judge, worst first."""


screens: Registry[type[Screen]] = Registry("screen")


def prepare(options: Options, classes: tuple[str, ...]) -> list[Screen]:
    """Makes the screens that --screens names, in the order given.

    Raises:
        UserError: a flag is wrong, a model cannot be loaded, or a package is missing.
    """
    names = [name.strip() for name in options.screens.split(",") if name.strip()]
    chosen = [screens[name] for name in dict.fromkeys(names)]
    for screen in chosen:
        for module in ("jinja2", *screen.needs):
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"--screens={options.screens}: {screen.name} needs {module}, which is not"
                    " installed: run pip install 'tfpipe[screen]'"
                )
    return [screen(options, classes) for screen in chosen]
