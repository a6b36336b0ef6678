"""Adds TFLite metadata to a model: the labels of its classes, and what kind of image it takes.

MediaPipe and the Task Library read it. The metadata is a FlatBuffer (tflite-support,
metadata_schema.fbs) in a buffer of the model. It names the file of the labels, which is in a zip
archive at the end of the model, so `unzip model.tflite` shows them too.
"""

import io
import zipfile
from collections.abc import Iterable, Sequence

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table

LABELS = "labels.txt"

_ENTRY = "TFLITE_METADATA"  # the name by which readers find the buffer
_MODEL_ID, _METADATA_ID = b"TFL3", b"M001"
_ALIGNMENT = 16  # of a model's weights

# Fields of a model (tensorflow/lite/schema/schema.fbs), and more than it has.
_VERSION, _BUFFERS, _METADATA, _MOST_FIELDS = 0, 4, 6, 16
# Values of enumerations in metadata_schema.fbs.
_FEATURE, _IMAGE, _RGB, _AXIS_LABELS = 1, 2, 1, 2


def add(model: bytes, *, name: str, description: str, classes: Sequence[str]) -> bytes:
    """Return a model of one image input and one output of probabilities, with metadata.

    Args:
        model: the content of a .tflite file without metadata of this kind.
        name: of the model.
        description: what it does.
        classes: names in the order of the probabilities.
    """
    found = io.BytesIO(_with_buffer(model, _describe(name, description)))
    with zipfile.ZipFile(found, "a") as archive:
        # A fixed date, so that the same export has the same bytes.
        archive.writestr(zipfile.ZipInfo(LABELS), "".join(f"{each}\n" for each in classes))
    return found.getvalue()


class _Builder(flatbuffers.Builder):
    """Builds tables from their fields, by the numbers that the schema gives them."""

    def table(self, offsets: dict[int, int], small: dict[int, int] | None = None) -> int:
        """Return a table with offsets of other objects, and with small numbers."""
        self.StartObject(_MOST_FIELDS)
        for field, offset in offsets.items():
            self.PrependUOffsetTRelativeSlot(field, offset, 0)
        for field, number in (small or {}).items():
            self.PrependUint8Slot(field, number, 0)
        return self.EndObject()

    def vector(self, offsets: Iterable[int]) -> int:
        """Return a vector of objects."""
        items = list(offsets)
        width = number_types.UOffsetTFlags.bytewidth
        self.StartVector(width, len(items), width)
        for item in reversed(items):
            self.PrependUOffsetTRelative(item)
        return self.EndVector()


def _describe(name: str, description: str) -> bytes:
    """Return the metadata: ModelMetadata with one SubGraphMetadata."""
    builder = _Builder()
    text = builder.CreateString
    rgb = builder.table({}, {0: _RGB})
    content = builder.table({1: rgb}, {0: _IMAGE})
    image = builder.table(
        {0: text("image"), 1: text("RGB pixels, 0 to 255, of the model's size"), 3: content}
    )
    labels = builder.table({0: text(LABELS), 1: text("names of the classes")}, {2: _AXIS_LABELS})
    content = builder.table({1: builder.table({})}, {0: _FEATURE})
    probability = builder.table(
        {
            0: text("probability"),
            1: text("calibrated probability of each class"),
            3: content,
            6: builder.vector([labels]),
        }
    )
    graph = builder.table({2: builder.vector([image]), 3: builder.vector([probability])})
    model = builder.table(
        {
            0: text(name),
            1: text(description),
            3: builder.vector([graph]),
            7: text("1.0.0"),  # the oldest parser that knows all these fields
        }
    )
    builder.Finish(model, _METADATA_ID)
    return bytes(builder.Output())


def _with_buffer(model: bytes, data: bytes) -> bytes:
    """Return a model with one more buffer, which an entry of its metadata names.

    Offsets of a FlatBuffer point forwards. So a new root before the old file shares its tables.
    """
    old = Table(model, int.from_bytes(model[:4], "little"))
    padded = model + bytes(-len(model) % _ALIGNMENT)
    builder = _Builder(len(padded) + len(data) + 4096)
    builder.CreateByteVector(padded)
    builder.Prep(_ALIGNMENT, 0)  # the whole file's length becomes a multiple of it

    def place(field: int) -> int:
        return old.Offset(4 + 2 * field)

    def offset(at: int) -> int:  # a builder counts from the end of the file
        return len(padded) - old.Indirect(at)

    def tables(field: int) -> list[int]:
        first = old.Vector(place(field)) if place(field) else 0
        count = old.VectorLen(place(field)) if place(field) else 0
        return [offset(at) for at in range(first, first + 4 * count, 4)]

    buffers = tables(_BUFFERS)
    buffer = builder.table({0: builder.CreateByteVector(data)})
    name = builder.CreateString(_ENTRY)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUint32Slot(1, len(buffers), 0)
    entry = builder.EndObject()
    others = [field for field in range(_VERSION + 1, _MOST_FIELDS) if place(field)]
    fields = {field: offset(old.Pos + place(field)) for field in others}
    fields[_BUFFERS] = builder.vector([*buffers, buffer])
    fields[_METADATA] = builder.vector([*tables(_METADATA), entry])
    builder.StartObject(_MOST_FIELDS)
    version = old.Get(number_types.Uint32Flags, old.Pos + place(_VERSION))
    builder.PrependUint32Slot(_VERSION, version, 0)
    for field, where in fields.items():
        builder.PrependUOffsetTRelativeSlot(field, where, 0)
    builder.Finish(builder.EndObject(), _MODEL_ID)
    return bytes(builder.Output())
