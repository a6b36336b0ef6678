"""What a request can be answered with instead of a result."""

import re

import grpc

# TensorFlow Serving cuts its messages here, for headers are bounded.
MESSAGE_LIMIT = 1024

# Of an error inside a graph TensorFlow's Python side tells where the graph was built: headings,
# and the frames of a stack trace, which are indented by spaces.
_TRACE_LINE = re.compile(
    r"Graph execution error:|Detected at node .*|Node: .*|<stack traces unavailable>"
    r"|Traceback \(most recent call last\):|  +(?!\(\d+\)).*"
)
_OP_NAME = re.compile(r" \[Op:\w+\]$")
# Of one in a session it names the functions before, and the nodes after, and then tells the same.
_NODE = re.compile(
    r"\{\{function_node [^}]*\}\}\s*|\s*\[\[\{\{.*|\s*Original stack trace for .*", re.DOTALL
)


class RequestError(Exception):
    """A request that is refused; shown to the client as code and message.

    Attributes:
        code: the gRPC status code.
        message: one line, no longer than `MESSAGE_LIMIT` and a mark that it was cut.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        cut = message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "...TRUNCATED"
        super().__init__(cut)
        self.code = code
        self.message = cut


def invalid(message: str) -> RequestError:
    """Returns the error for a request that no server could answer: INVALID_ARGUMENT."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> RequestError:
    """Returns the error for a model or version that is not there: NOT_FOUND."""
    return RequestError(grpc.StatusCode.NOT_FOUND, message)


def unimplemented(message: str) -> RequestError:
    """Returns the error for a method that this server does not have: UNIMPLEMENTED."""
    return RequestError(grpc.StatusCode.UNIMPLEMENTED, message)


def from_runtime(error: Exception) -> RequestError:
    """Translates what TensorFlow raised while it ran a function.

    Args:
        error: a `tf.errors.OpError`, whose code is kept (an unknown one is INTERNAL); a TypeError
            or ValueError, which the arguments cause; or anything else, which is INTERNAL.

    Returns:
        An error whose message is what the failing op said, without the stack trace.
    """
    number = getattr(error, "error_code", None)
    if number is not None:
        code = _CODES.get(number, grpc.StatusCode.INTERNAL)
    elif isinstance(error, TypeError | ValueError):
        code = grpc.StatusCode.INVALID_ARGUMENT
    else:
        code = grpc.StatusCode.INTERNAL
    text = _NODE.sub("", str(error))
    lines = [line for line in text.splitlines() if not _TRACE_LINE.fullmatch(line)]
    message = _OP_NAME.sub("", " ".join(" ".join(lines).split()))
    return RequestError(code, message or type(error).__name__)


_CODES = {code.value[0]: code for code in grpc.StatusCode}
for _vague in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN):
    del _CODES[_vague.value[0]]
