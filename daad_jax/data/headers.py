"""Reads the format and the pixel type of an image file from its first bytes. Decodes no pixel."""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

SIGNATURE_BYTES = 64  # the first bytes that suffice to identify every format
NEAR_BYTES = 2**16  # the headers of most files end within this many bytes

SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"), (b"\x93NUMPY", "NPY"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"), (b"\xff\x4f\xff\x51", "JPEG2000"),
)  # fmt: skip
BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
AVIF_BRANDS = {b"avif", b"avis"}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
NETPBM = re.compile(rb"P[1-6f]\s")
NETPBM_NUMBER = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])*(\d+)")
JPEG2000_SIZE = b"\xff\x4f\xff\x51"  # the markers SOC and SIZ, which begin every codestream


class Jpeg2000Header(NamedTuple):
    """Size, number of components, and the bits of the deepest component of a JPEG 2000 codestream."""

    width: int
    height: int
    components: int
    bits: int
    is_signed: bool


class NetpbmHeader(NamedTuple):
    """Size and largest value of a PGM or PPM file, and where its pixels begin."""

    width: int
    height: int
    largest: int
    offset: int


class NpyHeader(NamedTuple):
    """Type and layout of an array file: `pages` images of `shape`, `[h, w]` or `[h, w, 1, 3 or 4]`."""

    dtype: np.dtype
    pages: int
    shape: tuple[int, ...]
    has_fortran_order: bool
    offset: int


def identify(first_bytes: bytes) -> str:
    """Returns the format of a file by its first bytes (at least 64, or all); "" if we do not read it.

    Formats that run programs, such as PostScript, are missing here, so no decoder ever gets them.
    """
    for signature, image_format in SIGNATURES:
        if first_bytes.startswith(signature):
            return image_format
    if first_bytes[:4] == b"RIFF" and first_bytes[8:12] == b"WEBP":
        return "WEBP"
    if first_bytes[4:8] == b"ftyp":
        length = min(int.from_bytes(first_bytes[:4], "big"), len(first_bytes))
        brands = {first_bytes[i : i + 4] for i in (8, *range(16, length, 4))}
        return "AVIF" if brands & AVIF_BRANDS else "HEIF" if brands & HEIF_BRANDS else ""
    if first_bytes[:2] == b"BM" and int.from_bytes(first_bytes[14:18], "little") in BMP_HEADER_SIZES:
        return "BMP"
    return "PPM" if NETPBM.match(first_bytes) else ""


def has_image_signature(first_bytes: bytes) -> bool:
    """Whether a file with these first bytes (at least 64, or all) is an image that we read."""
    return bool(identify(first_bytes))


@contextmanager
def open_source(source: Path | bytes) -> Iterator[IO[bytes]]:
    """Opens a file or its bytes for reading."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        yield file


def integer_type(bits: int, is_signed: bool = False) -> str:
    """Returns NumPy's name of the smallest integer type with at least `bits` bits."""
    size = next(size for size in (8, 16, 32, 64) if bits <= size)
    return f"{'' if is_signed else 'u'}int{size}"


def pixel_type_of_array(dtype: np.dtype) -> str:
    """Returns the type that pixels of `dtype` are converted to: booleans to uint8, all floats to float32."""
    if dtype.kind == "b":
        return "uint8"
    return "float32" if dtype.kind == "f" else f"{dtype.newbyteorder('=')}"


def read_npy_header(file: IO[bytes]) -> NpyHeader:
    """Reads the header of an array file.

    An array `[h, w]`, or `[h, w, C]` with C of 1, 3 or 4, is one image. `[N, h, w]` and `[N, h, w, C]` are N
    images.

    Raises:
        ValueError: the header is damaged, or the array is no image.
    """
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"its format version is {version}; write the array again with np.save")
    shape, has_fortran_order, dtype = read[version](file)
    if dtype.hasobject or dtype.kind not in "buif":
        raise ValueError(f"its array is of type {dtype}; give integers or floats")
    has_channels = len(shape) > 2 and shape[-1] in (1, 3, 4)
    if len(shape) - has_channels not in (2, 3) or 0 in shape:
        raise ValueError(
            f"its array has the shape {shape}; give [h, w], [h, w, 1, 3 or 4], [N, h, w] or [N, h, w, C]"
        )
    image_axes = 2 + has_channels
    pages = shape[0] if len(shape) > image_axes else 1
    return NpyHeader(dtype, pages, shape[-image_axes:], has_fortran_order, file.tell())


def read_jpeg2000_header(file: IO[bytes]) -> Jpeg2000Header:
    """Reads the header of the first codestream in a JPEG 2000 file. Raises ValueError if there is none."""
    file.seek(0)
    content = file.read(NEAR_BYTES)
    begin = content.find(JPEG2000_SIZE)
    if begin < 0 or begin + 44 > len(content):
        content += file.read()
        begin = content.find(JPEG2000_SIZE)
    sizes = content[begin + 8 : begin + 42]
    if begin < 0 or len(sizes) < 34:
        raise ValueError("it has no JPEG 2000 codestream")
    right, bottom, left, top, *_, components = struct.unpack(">8IH", sizes)
    depths = content[begin + 42 : begin + 42 + 3 * components : 3]
    if len(depths) < components or not components:
        raise ValueError("its JPEG 2000 header is cut short")
    bits = max(1 + (depth & 127) for depth in depths)
    return Jpeg2000Header(right - left, bottom - top, components, bits, any(depth & 128 for depth in depths))


def read_netpbm_header(file: IO[bytes]) -> NetpbmHeader:
    """Reads the header of a PBM, PGM or PPM file. Raises ValueError if it is damaged."""
    file.seek(0)
    content = file.read(NEAR_BYTES)
    numbers, offset = [], 2
    for _ in range(2 if content[:2] in (b"P1", b"P4") else 3):
        match = NETPBM_NUMBER.match(content, offset)
        if not match:
            raise ValueError("its header is damaged")
        numbers.append(int(match[1]))
        offset = match.end()
    width, height, largest = (*numbers, 1)[:3]
    if not 0 < largest < 65536:
        raise ValueError(f"its largest value is {largest}, but 1 to 65535 are allowed")
    return NetpbmHeader(width, height, largest, offset + 1)


def read_avif_bits(file: IO[bytes]) -> int:
    """Reads the bits of a pixel of an AVIF file: 8, 10 or 12."""
    file.seek(0)
    content = file.read(NEAR_BYTES)
    begin = content.find(b"av1C")  # the configuration record of the codec
    flags = content[begin + 6] if 0 <= begin < len(content) - 6 else 0
    return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
