"""Tell what a file is by its first bytes, whatever its name."""

import re
from typing import NamedTuple

HEAD_BYTES = 256  # suffice for `find`

_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes of a BMP's second header
_TGA_TYPES = (1, 2, 3, 9, 10, 11)
_TGA_DEPTHS = (8, 15, 16, 24, 32)


class FileKind(NamedTuple):
    """A kind of file.

    Attributes:
        name: for a person, with its article.
        pillow: Pillow's name of the format; "" if the file is not read.
        is_image: whether it is a picture.
        advice: what to do with a file that is not read; "" if that is clear.
    """

    name: str
    pillow: str = ""
    is_image: bool = False
    advice: str = ""

    def __str__(self):
        return "; ".join(filter(None, (self.name, self.advice)))


def _readable(name: str, pillow: str, article: str = "a") -> FileKind:
    return FileKind(f"{article} {name} file", pillow, is_image=True)


def _picture(name: str, article: str = "a") -> FileKind:
    return FileKind(f"{article} {name} file", is_image=True, advice="convert it to JPEG or PNG")


def _other(name: str, advice: str = "") -> FileKind:
    return FileKind(name, advice=advice)


JPEG, PNG = _readable("JPEG", "JPEG"), _readable("PNG", "PNG")
GIF, BMP = _readable("GIF", "GIF"), _readable("BMP", "BMP")
WEBP, TIFF = _readable("WebP", "WEBP"), _readable("TIFF", "TIFF")
PPM = _readable("PPM or PGM", "PPM")
AVIF = FileKind("an AVIF file", "AVIF", True, "this Pillow does not read it: convert it to JPEG")
HEIC = FileKind(
    "a HEIC file", "HEIF", True, "pip install 'tfpipe[heic]' to read it, or convert it to JPEG"
)

_PNG_IS_READ = "convert it to PNG"
_AGAIN = "download it again"
_ARCHIVE = "name it as a source, with the ending of an archive"
EMPTY = _other("the file is empty", "copy it again")
ZEROS = _other("a file of zeros, as an interrupted copy leaves it", "copy it again")
_HTML = _other("a web page (HTML)", _AGAIN)
_JSON = _other("JSON text, perhaps a server's error message", _AGAIN)
_SVG = _other("an SVG drawing, which has no pixels", _PNG_IS_READ)
_XML, _TEXT = _other("XML text"), _other("text")
_VIDEO = _other("a video", "extract its frames")
_TGA, _DICOM = _picture("TGA"), _picture("DICOM")

_MAGIC: tuple[tuple[bytes, FileKind], ...] = (
    (b"\xff\xd8", JPEG),
    (b"\x89PNG", PNG),
    (b"GIF8", GIF),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0", TIFF),
    (b"MM\0+", TIFF),
    (b"\xff\x0a", _picture("JPEG XL")),
    (b"\0\0\0\x0cJXL ", _picture("JPEG XL")),
    (b"\0\0\0\x0cjP  ", _picture("JPEG 2000")),
    (b"\xff\x4f\xff\x51", _picture("JPEG 2000")),
    (b"v/1\x01", _picture("OpenEXR", "an")),
    (b"#?RADIANCE", _picture("Radiance HDR")),
    (b"FUJIFILMCCD-RAW", _picture("camera's raw")),
    (b"8BPS", _other("a Photoshop file", _PNG_IS_READ)),
    (b"\0\0\1\0", _other("an icon (ICO)", _PNG_IS_READ)),
    (b"%PDF", _other("a PDF document", "convert its pages to PNG")),
    (b"%!PS", _other("a PostScript document", _PNG_IS_READ)),
    (
        b"version https://git-lfs",
        _other("a Git LFS pointer, not the image itself", "run `git lfs pull` in its repository"),
    ),
    (
        b"/annex/objects/",
        _other("a git-annex pointer, not the image itself", "run `git annex get` in its folder"),
    ),
    (b"\0\x05\x16\x07", _other("macOS metadata (AppleDouble)", "remove it")),
    (b"PK\3\4", _other("a zip archive", _ARCHIVE)),
    (b"\x1f\x8b", _other("a gzip file", _ARCHIVE)),
    (b"7z\xbc\xaf\x27\x1c", _other("a 7z archive", "unpack it")),
    (b"Rar!", _other("a RAR archive", "unpack it")),
    (b"\x93NUMPY", _other("a NumPy array", "save it as PNG")),
    (b"\x89HDF", _other("an HDF5 file")),
    (b"\x1a\x45\xdf\xa3", _VIDEO),
)

# Brands of ISO base media files (ISO/IEC 14496-12), at byte 8.
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

_PPM = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s")
_MARKUP = re.compile(rb"<(!doctype\s+html|html|head|body|svg|!doctype\s+svg|[?]xml)", re.IGNORECASE)


def find(head: bytes) -> FileKind | None:
    """Return the kind of a file, or None if it is unknown.

    Args:
        head: the whole file, or its first `HEAD_BYTES` bytes.
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    head = head[:HEAD_BYTES]
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand == b"mif1" and b"avif" in head[16:64]:  # among the compatible brands
            return AVIF
        return AVIF if brand in _AVIF_BRANDS else HEIC if brand in _HEIC_BRANDS else _VIDEO
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"AVI "):
        return WEBP if head[8:12] == b"WEBP" else _VIDEO
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return BMP
    if _PPM.match(head):
        return PPM
    if head[128:132] == b"DICM":
        return _DICOM
    if not head.strip(b"\0"):
        return ZEROS if head else EMPTY
    return _TGA if _is_tga(head) else _text_kind(head)


def _is_tga(head: bytes) -> bool:
    """Return whether the first 18 bytes are a Targa header, which has no magic number."""
    if len(head) < 18:
        return False
    has_map, kind, depth, flags = head[1], head[2], head[16], head[17]
    sizes = head[12] | head[13], head[14] | head[15]
    return (
        kind in _TGA_TYPES
        and has_map == (kind in (1, 9))
        and (bool(has_map) or head[3:8] == bytes(5))
        and depth in _TGA_DEPTHS
        and flags < 64
        and all(sizes)
    )


def _text_kind(head: bytes) -> FileKind | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    markup = _MARKUP.match(text)
    if markup:
        is_svg = b"<svg" in head.lower()
        return _SVG if is_svg else _XML if markup[1] == b"?xml" else _HTML
    if text[:1] in (b"{", b"["):
        return _JSON
    if text.startswith(b"<!--"):
        return _HTML
    is_text = all(byte >= 32 or byte in b"\t\n\v\f\r" for byte in head)
    try:
        head[: -4 if len(head) == HEAD_BYTES else None].decode()
    except UnicodeDecodeError as error:
        # A character may be cut at the end.
        is_text = is_text and error.start >= HEAD_BYTES - 8
    return _TEXT if is_text else None
