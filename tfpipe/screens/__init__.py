"""Screens: each lists images that may not belong in a data set, for a person to judge.

`prepare` makes the chosen screens and checks their options before any image is read. `run` writes
each screen's suspects as a CSV file and as a page of thumbnails. Suspects leave the data set only
with `screen_action=drop`.

To add a screen, write a subclass of `Screen` in its own file, register it, and import it here.
"""

from tfpipe.screens.imagenet import ImageNet
from tfpipe.screens.label_issues import Labels
from tfpipe.screens.screen import (
    DROP,
    REPORT,
    Options,
    Screen,
    ScreenedImages,
    Suspect,
    prepare,
    screens,
)
from tfpipe.screens.size import Size
from tfpipe.screens.suspect_lists import run

__all__ = [
    "DROP",
    "REPORT",
    "ImageNet",
    "Labels",
    "Options",
    "Screen",
    "ScreenedImages",
    "Size",
    "Suspect",
    "prepare",
    "run",
    "screens",
]
