"""What every error for a user promises: one line that says what is wrong."""

import contextlib

import pytest

from tfpipe.core.errors import UserError


@contextlib.contextmanager
def refused(pattern):
    """Expects a UserError of one line that matches a regular expression."""
    with pytest.raises(UserError, match=pattern) as error:
        yield error
    assert "\n" not in str(error.value)
