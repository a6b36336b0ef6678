"""The table of the files of a build: what goes in comes out, also from a file."""

import io

import numpy as np
import pytest

from tfpipe.core.packed_texts import PackedTexts
from tfpipe.images import image_table
from tfpipe.images.image_info import ImageInfo, ImageRef
from tfpipe.images.image_table import ImageTable


def info(number, **changes):
    digest = f"{number:02x}" * 30 + "0000"  # zeros at the end, which NumPy's elements lack
    sizes = {"height": 3, "width": 4, "bytes": 2**32 - 1, "file_bytes": 9}
    file = {"file_height": 8, "file_width": 2**32 - 2, "color": (0.1, 99.9, 255.0)}
    texts = {"format": "png", "converted": "rotated" * (number % 2), "spool": f"scan/{number}"}
    ref = ImageRef(number % 2, f"cat/{number}.png")
    digests = {"sha256": digest, "file_sha256": "00" * 32, "hash": digest[::-1]}
    values = {**sizes, **file, **texts, **digests, "offset": 2**40 + number}
    return ImageInfo(ref, **{**values, **changes})


INFOS = [info(number) for number in range(5)]


def test_descriptions_come_out_as_they_went_in():
    table = ImageTable.of_infos(INFOS)
    assert list(table) == INFOS
    assert list(table.take([3, 1])) == [INFOS[3], INFOS[1]]
    assert table.rows.itemsize <= 200


def test_a_saved_part_holds_no_more_than_its_own():
    table = ImageTable.of_infos(INFOS)
    table.set_texts("label", ["dog", "cat", "dog", "cat", "cow"])
    file = io.BytesIO()
    for rows in ([4, 0], [2]):
        table.take(rows).save(file)
    assert b"cat/1.png" not in file.getvalue()
    file.seek(0)
    first, second = ImageTable.load(file), ImageTable.load(file)
    assert [*first, *second] == [INFOS[i] for i in (4, 0, 2)]
    assert first.texts("label") == ["cow", "dog"]
    assert table.texts("label")[0] == second.texts("label")[0] == "dog"


def test_tables_of_the_same_files_share_new_texts():
    table = ImageTable.of_infos(INFOS)
    part = table.take(np.array([1, 2]))
    part.set_texts("split", ["train", "val"])
    table.set_texts("split", ["test", "val", "test", "val", "train"])
    assert part.texts("split") == ["train", "val"]
    assert table.number("val") == part.number("val")


@pytest.mark.parametrize("digest", ["00" * 32, "ff" * 31 + "00", "80" + "00" * 31])
def test_digests_keep_their_zeros_and_their_order(digest):
    packed = np.array([bytes.fromhex(each) for each in (digest, "7f" * 32)], image_table.DIGEST)
    assert [image_table.to_hex(each) for each in packed] == [digest, "7f" * 32]
    assert (packed[0] < packed[1]) == (digest < "7f" * 32)


def test_names_that_are_no_unicode():
    names = ["", "é", "b\udcff.jpg", "\ud83d\ude00", "\N{GRINNING FACE}"]
    packed = PackedTexts(names)
    assert list(packed) == names
    with pytest.raises(IndexError):
        packed[len(names)]


@pytest.mark.parametrize("count", [0, 1, 2, 20_000, 40_000])
def test_ranks_are_those_of_numpy(count):
    digests = np.random.default_rng(count).integers(0, 99, (count, 2), np.uint8)
    digests = np.array([bytes(row).rjust(32, b"x") for row in digests], image_table.DIGEST)
    firsts, ranks = image_table.rank(digests)
    _, expected, inverse = np.unique(digests, return_index=True, return_inverse=True)
    assert firsts.tolist() == expected.tolist()
    assert ranks.tolist() == inverse.tolist()
