"""The interface of all screens: options, images, suspects."""

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
    """The options of all screens."""

    screens: str = option(
        "screens for unsuitable images, separated by commas: size (outliers in width, height,"
        " area, aspect and bytes per pixel), imagenet (no expected class among an ImageNet"
        " classifier's top guesses), labels (labels that a classifier contradicts); each writes"
        " screen-NAME.csv and screen-NAME.html",
        "",
        group="Screens",
    )
    screen_action: str = option(
        "whether images that a screen lists stay: report keeps them, drop leaves them out",
        REPORT,
        (REPORT, DROP),
    )
    screen_iqrs: float = option(
        "screen size: allowed distance from a quartile, in interquartile ranges", 1.5
    )
    screen_model: str = option(
        "screen imagenet: the classifier, a keras.applications name (its weights are downloaded) or"
        " a .keras file that takes RGB in 0..255 and gives the 1,000 ImageNet classes",
        "mobilenet",
    )
    screen_classes: str = option(
        "screen imagenet: the ImageNet classes that each class may look like, as in"
        " cat:281-285,dog:151-268 or boat:472+554+814; other classes are not screened",
        "",
    )
    screen_top_k: int = option(
        "screen imagenet: number of top guesses to search for any class of --screen_classes",
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
        "screen labels: the share of all images to list, worst first; 0 lists the labels that"
        " cleanlab considers wrong",
        0.02,
    )
    screen_cache: str = option(
        "a folder that keeps the models' outputs, which take minutes to compute, for later builds;"
        " empty to delete them when this build is complete",
        "",
    )


@dataclasses.dataclass(frozen=True)
class ScreenedImages:
    """The images of a data set for the screens; all sequences have the same order.

    Attributes:
        found: a description of each.
        paths: the place of each, for people.
        labels: the class of each, as an index into `classes`.
        classes: names.
        read: maps an index to the stored JPEG or PNG file; called from one thread at a time.
        cache: a folder that outlives an interrupted build, for slow results.
        groups: equal numbers for duplicates of each other; None without duplicates.
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
        index: its place in `ScreenedImages`.
        score: higher for more suspicious images, in the unit of `Screen.score`.
        reason: a phrase for people.
    """

    index: int
    score: float
    reason: str


class Screen(abc.ABC):
    """A way to find unsuitable images.

    Attributes:
        name: its name in the option `screens`.
        question: the question that it asks about each image.
        score: the quantity that its scores measure.
        needs: modules of the extra `screen` that it imports.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    score: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def __init__(self, options: Options, classes: tuple[str, ...]):
        """Check the options and load models; raise UserError before any image is read."""

    @abc.abstractmethod
    def find(self, images: ScreenedImages) -> list[Suspect]:
        """Return the suspects, worst first."""


screens: Registry[type[Screen]] = Registry("screen")


def prepare(options: Options, classes: tuple[str, ...]) -> list[Screen]:
    """Make the chosen screens, in the order of the option `screens`.

    Raises:
        UserError: an option is wrong, a model cannot be loaded, or a package is missing.
    """
    names = [name.strip() for name in options.screens.split(",") if name.strip()]
    chosen = [screens[name] for name in dict.fromkeys(names)]
    for screen in chosen:
        for module in ("jinja2", *screen.needs):
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"`screens={options.screens}`: {screen.name} needs {module}, which is not"
                    " installed: run pip install 'tfpipe[screen]'"
                )
    return [screen(options, classes) for screen in chosen]
