"""The directory of zip archives, against zipfile."""

import io
import zipfile

import pytest

from tfpipe.sources.zip_directory import ZipDirectory

CONTENTS = {"a/1.jpg": b"x" * 100_000, "b.png": b"", "é.txt": bytes(range(256)), "a/": b""}


def archive(method=zipfile.ZIP_DEFLATED, *, before=b"", comment=b"", wide=False, extra=b""):
    file = io.BytesIO(before)
    file.seek(0, 2)
    with zipfile.ZipFile(file, "a", method) as written:
        for name, data in CONTENTS.items():
            info = zipfile.ZipInfo(name)
            info.extra = extra
            with written.open(info, "w", force_zip64=wide) as member:
                member.write(data)
        written.comment = comment
    return file


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"before": b"#!/bin/sh\n" * 9},
        {"comment": b"c" * 65_535},
        {"wide": True},
        {"extra": b"\xfe\xca\xe8\x03" + bytes(1000)},
    ],
    ids=["plain", "after another file", "comment", "64 bits", "long header"],
)
def test_members_are_those_of_zipfile(method, changes):
    file = archive(method, **changes)
    directory = ZipDirectory(file)
    found = [entry.member for entry in directory]
    with zipfile.ZipFile(io.BytesIO(file.getvalue())) as reference:
        infos = reference.infolist()
        assert [(e.crc, e.size, e.compressed, e.method, e.attributes) for e in found] == [
            (i.CRC, i.file_size, i.compress_size, i.compress_type, i.external_attr) for i in infos
        ]
    for member, data in zip(found, CONTENTS.values(), strict=True):
        assert directory.read(member, -1) == data
        assert directory.read(member, 7) == data[:7]


def test_more_members_than_16_bits_count():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for number in range(65_600):
            written.writestr(zipfile.ZipInfo(str(number)), b"")
    names = [entry.name.decode() for entry in ZipDirectory(file)]
    assert names == [str(number) for number in range(65_600)]


@pytest.mark.parametrize("place", range(1, 80, 3))
def test_a_cut_archive_has_no_directory_or_ends_in_an_error(place):
    data = archive().getvalue()
    with pytest.raises((zipfile.BadZipFile, ValueError, OSError)):
        list(ZipDirectory(io.BytesIO(data[:-place])))


def test_a_member_beyond_every_file_is_an_error():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("a.jpg", b"x")
        written.infolist()[0].header_offset = 2**63
    with pytest.raises(zipfile.BadZipFile, match="begins at byte"):
        list(ZipDirectory(file))
