"""Pictures as a browser or a script sends them: a form, read no further than the limits."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serving.images import IMAGE_MAGIC
from serving.web.errors import WebError
from serving.web.limits import Limits

IMAGE, SAMPLE = "image", "sample"
FORM = "multipart/form-data"

# The fields of a form beside its pictures, each of a few letters.
_FIELDS, _FIELD_BYTES = 4, 1 << 10
# What a form adds to its pictures, for each of them: a boundary and some headers.
_AROUND_BYTES = 4 << 10

# What else people take for pictures: where the marks begin, and what to call it.
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


class Picture(NamedTuple):
    """A name to tell it by, and the whole file."""

    name: str
    data: bytes

    def check(self) -> None:
        """Raises WebError if the file is not of a kind that models read."""
        if not self.data:
            raise WebError(422, "This file is empty.")
        if self.data.startswith(IMAGE_MAGIC):
            return
        for place, mark, kind in _OTHERS:
            if self.data.startswith(mark, place):
                raise WebError(
                    415, f"This is {kind}, which the model cannot read: save it as JPEG or PNG."
                )
        raise WebError(415, "This is not a picture: choose a JPEG, PNG, GIF or BMP file.")


class Form(NamedTuple):
    """What a form holds: pictures, and the sample that was chosen, or ""."""

    pictures: list[Picture]
    sample: str


def too_large(most: int) -> str:
    """Returns a sentence that names the limit, in bytes."""
    return f"This is too large: up to {most / 2**20:.3g} MB can be sent at a time."


async def read(request: Request, limits: Limits) -> Form:
    """Reads the form in a request's body into memory, and no file of it to a disk.

    Raises:
        WebError: it is no form, or too large, or does not arrive in time. What is left of the body
            then is thrown away by the server (uvicorn).
        ClientDisconnect: who sent it went away.
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
    if _length(request) > most:
        raise WebError(413, too_large(limits.request_bytes))
    parser = MultiPartParser(
        request.headers,
        _bounded(request.stream(), most, limits.request_bytes),
        max_files=limits.images,
        max_fields=_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    parser.spool_max_size = most + 1  # a larger one would go to a file
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
                pictures.append(Picture(name[:200], await value.read()))
        elif field == SAMPLE:
            sample = value
    if sum(len(picture.data) for picture in pictures) > limits.request_bytes:
        raise WebError(413, too_large(limits.request_bytes))
    return Form(pictures, sample)


def _length(request: Request) -> int:
    """Returns the length that the body is said to have, or 0."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isdecimal() else 0


async def _bounded(stream: AsyncIterator[bytes], most: int, said: int) -> AsyncIterator[bytes]:
    size = 0
    async for part in stream:
        size += len(part)
        if size > most:
            raise WebError(413, too_large(said))
        yield part
