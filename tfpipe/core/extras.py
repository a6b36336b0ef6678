"""Optional packages, by the extras of pyproject.toml."""

import contextlib
from collections.abc import Iterator

from tfpipe.core.errors import UserError


@contextlib.contextmanager
def needed(extra: str) -> Iterator[None]:
    """Raise UserError, with what to install, where an import inside fails."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'tfpipe[{extra}]'") from None
