"""The error that a server sends instead of an answer."""

import re

import grpc

# TensorFlow Serving cuts its messages here, because gRPC headers are bounded.
MAX_MESSAGE_CHARS = 1024

# The HTTP status of each gRPC status (util/net_http of TensorFlow Serving); others are 500.
HTTP_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

# Lines that TensorFlow adds to the error of an op: headings, and indented stack frames.
_TRACE_LINE = re.compile(
    r"Graph execution error:|Detected at node .*|Node: .*|<stack traces unavailable>"
    r"|Traceback \(most recent call last\):|  +(?!\(\d+\)).*"
)
_OP_NAME = re.compile(r" \[Op:\w+\]( name: \S*)?$")
_NODE = re.compile(r"\{\{function_node [^}]*\}\}\s*|\s*\[\[\{\{.*", re.DOTALL)


class RequestError(Exception):
    """A refused request; the client sees the code and the message.

    Attributes:
        code: the gRPC status code.
        message: one line of at most `MAX_MESSAGE_CHARS`, plus a mark if it was cut.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        if len(message) > MAX_MESSAGE_CHARS:
            message = message[:MAX_MESSAGE_CHARS] + "...TRUNCATED"
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> RequestError:
    """Return INVALID_ARGUMENT: the request itself is wrong."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, message)


def precondition(message: str) -> RequestError:
    """Return FAILED_PRECONDITION: the model does not support this request."""
    return RequestError(grpc.StatusCode.FAILED_PRECONDITION, message)


def not_found(message: str) -> RequestError:
    """Return NOT_FOUND: the model or the version does not exist."""
    return RequestError(grpc.StatusCode.NOT_FOUND, message)


def unimplemented(message: str) -> RequestError:
    """Return UNIMPLEMENTED: the server lacks this method."""
    return RequestError(grpc.StatusCode.UNIMPLEMENTED, message)


def from_runtime(error: Exception) -> RequestError:
    """Convert an exception that TensorFlow raised.

    Args:
        error: a `tf.errors.OpError` keeps its code. TypeError and ValueError become
            INVALID_ARGUMENT, all others INTERNAL.

    Returns:
        The error with the op's message, without the stack trace.
    """
    if isinstance(error, RequestError):
        return error
    number = getattr(error, "error_code", None)
    if number is not None:
        code = _CODES.get(number, grpc.StatusCode.INTERNAL)
    elif isinstance(error, TypeError | ValueError):
        code = grpc.StatusCode.INVALID_ARGUMENT
    else:
        code = grpc.StatusCode.INTERNAL
    # TensorFlow copies bytes of the request into some messages, and Python then cannot read them.
    is_bytes = isinstance(error, UnicodeDecodeError)
    text = error.object.decode(errors="backslashreplace") if is_bytes else str(error)
    text = _NODE.sub("", text)
    lines = [line for line in text.splitlines() if not _TRACE_LINE.fullmatch(line)]
    message = _OP_NAME.sub("", " ".join(" ".join(lines).split()))
    return RequestError(code, message or type(error).__name__)


_VAGUE = (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)
_CODES = {code.value[0]: code for code in grpc.StatusCode if code not in _VAGUE}
