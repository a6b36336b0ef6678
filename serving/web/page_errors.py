"""Errors of the page, as sentences for the person who uses it."""

import grpc

from tfpipe.protocol.client import BUSY
from tfpipe.protocol.transport import ServerError

# Seconds until a retry makes sense.
_BUSY_S, _DOWN_S = 2, 5


class WebError(Exception):
    """There is no answer; the message is a sentence for a person.

    Attributes:
        status: the HTTP status.
        retry_after: seconds until a retry makes sense; None if it never does.
    """

    def __init__(self, status: int, sentence: str, *, retry_after: int | None = None):
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after

    @property
    def of_the_service(self) -> bool:
        """Whether any other picture would fail too."""
        return self.status >= 500


def busy(sentence: str) -> WebError:
    """Return the error of an overload."""
    return WebError(503, f"{sentence} Try again in a few seconds.", retry_after=_BUSY_S)


def of_server(error: ServerError, model: str, timeout_s: float) -> WebError:
    """Return an error of the model server in words for the person who uses the page.

    Args:
        error: from the client.
        model: name of the model.
        timeout_s: limit of the call in seconds.
    """
    code = error.code
    if code is grpc.StatusCode.UNAVAILABLE and BUSY.search(str(error)):
        return busy("The model has too much to do just now.")
    if code is grpc.StatusCode.UNAVAILABLE:
        sentence = "The model server does not answer: it is not running, or cannot be reached."
        return WebError(503, sentence, retry_after=_DOWN_S)
    if code is grpc.StatusCode.NOT_FOUND:
        sentence = f"The model server has no model “{model}”, or has not loaded it yet."
        return WebError(503, sentence, retry_after=_DOWN_S)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        sentence = f"The model did not answer within {timeout_s:g} seconds. Try again later."
        return WebError(504, sentence, retry_after=_DOWN_S)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return unreadable()
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return no_classifier(model)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return WebError(413, "This picture is too large for the model server: send a smaller one.")
    return WebError(502, f"The model server's answer is of no use to this page ({code.name}).")


def no_classifier(model: str) -> WebError:
    """Return the error of a model that does not classify pictures."""
    sentence = f"The model “{model}” does not classify pictures, or not as this page asks it to."
    return WebError(502, sentence)


# The page's sentence for each error of an export (`tfpipe.images.upload`), by its first words.
_REASONS = {
    "damaged": "This picture is damaged and cannot be read: try another copy of it.",
    "the file is empty": "This file is empty.",
    "not a": "This is not a picture: choose a JPEG, PNG, GIF or BMP file.",
    "more than": "This picture has too many pixels: make it smaller.",
    "a JPEG with": "This JPEG is made in an unusual way: open it and save it anew.",
    "a BMP file": "This BMP file is of an unusual kind: save the picture as JPEG or PNG.",
}


def unreadable(reason: str = "damaged") -> WebError:
    """Return the error of a picture that the model cannot read; `reason` is the model's text."""
    for start, sentence in _REASONS.items():
        if reason.startswith(start):
            return WebError(422, sentence)
    return WebError(422, f"The model cannot read this picture: {reason}.")
