"""Screens: each lists the images that it suspects, for a person to judge.

Before the images are read, `prepare` makes the screens that the flags name and finds what is wrong
with the flags; when all images are described, `run` lists the suspects of each in a CSV and on a
page of thumbnails. Only on request (`--screen_action=drop`) do suspects leave the data set.

To add a screen, write a subclass of `Screen` in a file of its own, enter it in `screens`, and
import it here.
"""

from tfpipe.screens.imagenet import ImageNet
from tfpipe.screens.label_issues import Labels
from tfpipe.screens.screen import DROP, REPORT, Images, Options, Screen, Suspect, prepare, screens
from tfpipe.screens.size import Size
from tfpipe.screens.suspects import run

__all__ = [
    "DROP",
    "REPORT",
    "ImageNet",
    "Images",
    "Labels",
    "Options",
    "Screen",
    "Size",
    "Suspect",
    "prepare",
    "run",
    "screens",
]
