"""Reads the pictures of a form, up to the limits."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serving.web.limits import Limits
from serving.web.page_errors import WebError
from tfpipe.protocol.images import IMAGE_MAGIC, ImageFile

IMAGE, SAMPLE = "image", "sample"
FORM = "multipart/form-data"

# Number and size of the form fields that are not pictures.
_FIELDS, _FIELD_BYTES = 4, 1 << 10
# What a form adds to each picture: a boundary and some headers.
_AROUND_BYTES = 4 << 10

# Files that people take for pictures: offset and bytes of the mark, and a name.
_OTHERS = (
    (8, b"WEBP", "a WebP picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIC picture"),
    (4, b"ftyp", "a video"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"<svg", "an SVG drawing"),
)


def check(picture: ImageFile) -> None:
    """Raise WebError if models cannot read the format of a picture."""
    if not picture.data:
        raise WebError(422, "This file is empty.")
    if picture.data.startswith(IMAGE_MAGIC):
        return
    for place, mark, kind in _OTHERS:
        if picture.data.startswith(mark, place):
            raise WebError(
                415, f"This is {kind}, which the model cannot read: save it as JPEG or PNG."
            )
    raise WebError(415, "This is not a picture: choose a JPEG, PNG, GIF or BMP file.")


class Form(NamedTuple):
    """The pictures of a form, and the key of the chosen sample, or ""."""

    pictures: list[ImageFile]
    sample: str


def too_large(most: int) -> str:
    """Return a sentence with the limit `most`, in bytes."""
    return f"This is too large: up to {most / 2**20:.3g} MB can be sent at a time."


async def read(request: Request, limits: Limits) -> Form:
    """Read the form of a request into memory, never to a disk.

    Raises:
        WebError: it is no form, is too large, or does not arrive in time. uvicorn then discards
            the rest of the body.
        ClientDisconnect: the client went away.
    """
    try:
        return await asyncio.wait_for(_parse(request, limits), limits.receive_s)
    except asyncio.TimeoutError:
        late = f"The pictures did not arrive within {limits.receive_s:g} seconds: try smaller ones."
        raise WebError(408, late) from None


async def _parse(request: Request, limits: Limits) -> Form:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise WebError(415, f"Send the pictures as {FORM}, in fields named “{IMAGE}”.")
    most = limits.request_bytes + limits.images * _AROUND_BYTES
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise WebError(413, too_large(limits.request_bytes))
    parser = MultiPartParser(
        request.headers,
        _bounded(request.stream(), most, limits.request_bytes),
        max_files=limits.images,
        max_fields=_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    parser.spool_max_size = most + 1  # a larger form would go to a file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise WebError(413, f"Send at most {limits.images} pictures at a time.") from None
        raise WebError(400, f"The form cannot be read: {error.message}") from None
    try:
        return await _contents(form, limits)
    finally:
        await form.close()


async def _contents(form: FormData, limits: Limits) -> Form:
    pictures, sample = [], ""
    for field, value in form.multi_items():
        if isinstance(value, UploadFile):
            if value.filename or value.size:  # a form without a choice sends an empty one
                name = (value.filename or "picture").replace("\\", "/").rpartition("/")[2]
                pictures.append(ImageFile(name[:200], await value.read()))
        elif field == SAMPLE:
            sample = value
    if sum(len(picture.data) for picture in pictures) > limits.request_bytes:
        raise WebError(413, too_large(limits.request_bytes))
    return Form(pictures, sample)


async def _bounded(stream: AsyncIterator[bytes], most: int, said: int) -> AsyncIterator[bytes]:
    size = 0
    async for part in stream:
        size += len(part)
        if size > most:
            raise WebError(413, too_large(said))
        yield part
