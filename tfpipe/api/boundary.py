"""What every function of the API does for its caller: keywords, errors, silence."""

import contextlib
import functools
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import numpy as np

from tfpipe.core import keywords, terminal
from tfpipe.core.errors import UserError, as_keywords

P = ParamSpec("P")
R = TypeVar("R")


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function of the API from one that may raise and print as a command does.

    An unknown keyword is a UserError too, and messages name keywords instead of flags. Messages go
    to the logger "tfpipe", and nothing is printed, unless the caller gives `progress=True`.
    """
    parameters = inspect.signature(function).parameters
    takes_others = any(each.kind is each.VAR_KEYWORD for each in parameters.values())

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        progress = kwargs.get("progress", False)
        with terminal.logged(not progress), _kept_random_state():
            try:
                if not takes_others:
                    keywords.check_known(kwargs, parameters, function.__name__)
                if not isinstance(progress, bool):
                    raise UserError(f"`progress={progress}`: give True or False", status=2)
                return function(*args, **kwargs)
            except UserError as error:
                error.args = (as_keywords(str(error)),)
                raise

    return call


@contextlib.contextmanager
def _kept_random_state() -> Iterator[None]:
    """Restore the random state of Python and NumPy: a Keras model that is built draws numbers."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def with_flags(
    get_options: Callable[[], type], *, without: tuple[str, ...] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that shows the options of a command as keywords of a function.

    They appear in its signature and its docstring, which `help` and notebooks show. The function
    itself takes them as `**flags`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        cls = get_options()
        shown: Any = function
        shown.__signature__ = keywords.signature(function, cls, without)
        shown.__doc__ = f"{inspect.getdoc(function)}\n\n{keywords.describe(cls, without)}"
        return function

    return decorate
