"""What can go wrong with a request, in words for the person who made it."""

import grpc

from serving.client import BUSY
from serving.transport import ServerError

# After how many seconds it makes sense to ask again.
_BUSY_S, _DOWN_S = 2, 5


class WebError(Exception):
    """Why there is no answer; its message is a sentence for a person.

    Attributes:
        status: of HTTP.
        retry_after: after how many seconds to try again; None if that is of no use.
    """

    def __init__(self, status: int, sentence: str, *, retry_after: int | None = None):
        super().__init__(sentence)
        self.status = status
        self.retry_after = retry_after

    @property
    def of_the_service(self) -> bool:
        """Whether another picture would have met the same."""
        return self.status >= 500


def busy(sentence: str) -> WebError:
    """Returns the problem that there is too much to do just now."""
    return WebError(503, f"{sentence} Try again in a few seconds.", retry_after=_BUSY_S)


def of_server(error: ServerError, model: str, timeout_s: float) -> WebError:
    """Returns what a model server's refusal means to a person who knows nothing of it.

    Args:
        error: of one image, or of a call without any.
        model: the name of the model that was asked for.
        timeout_s: how long the call was allowed to take.
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
    """Returns the problem of a model that answers something else than classes of pictures."""
    sentence = f"The model “{model}” does not classify pictures, or not as this page asks it to."
    return WebError(502, sentence)


# What an export answers of a file that it cannot read (`tfpipe.images.upload`), by its first words,
# and what a page says.
_REASONS = {
    "damaged": "This picture is damaged and cannot be read: try another copy of it.",
    "the file is empty": "This file is empty.",
    "not a": "This is not a picture: choose a JPEG, PNG, GIF or BMP file.",
    "more than": "This picture has too many pixels: make it smaller.",
    "a JPEG with": "This JPEG is made in an unusual way: open it and save it anew.",
    "a BMP file": "This BMP file is of an unusual kind: save the picture as JPEG or PNG.",
}


def unreadable(reason: str = "damaged") -> WebError:
    """Returns the problem of a picture that the model cannot read.

    Args:
        reason: the model's own words for it.
    """
    for start, sentence in _REASONS.items():
        if reason.startswith(start):
            return WebError(422, sentence)
    return WebError(422, f"The model cannot read this picture: {reason}.")
