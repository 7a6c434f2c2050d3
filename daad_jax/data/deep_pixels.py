"""Reads pixels of more than 8 bits, with the values that the file stores. Each format has a reader.

A reader imports its libraries itself, because they are large and most data sets have no such files.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from daad_jax.data import containers
from daad_jax.data.headers import (
    SIGNATURE_BYTES,
    identify,
    integer_type,
    open_source,
    pixel_type_of_array,
    read_avif_bits,
    read_jpeg2000_header,
    read_netpbm_header,
    read_npy_header,
)

CheckSize = Callable[[int, int], None]  # takes width and height; raises an error for a too large image
ORIENTATION_TAG = 0x0112  # in EXIF and TIFF; the value 1 is upright
MIN_IS_WHITE, RGB_COLOURS, MIN_IS_BLACK = 0, 2, 1  # photometric interpretations of TIFF
JPEG_COLOURS = (6, 7)  # YCbCr by JPEG, whose decoder gives RGB
STRAIGHT_ALPHA = 2  # of TIFF's extra samples: the colours are not multiplied by the alpha yet
MAX_SAMPLES = 4
ALWAYS_8_BITS = ("JPEG", "BMP", "GIF", "WEBP")


def find_pixel_type(source: Path | bytes, page: int = 0) -> str:
    """Returns the NumPy type of a file's decoded pixels, for instance "uint8" or "uint16".

    Only the header is read. A file that cannot be decoded may cause any error here, too.
    """
    if isinstance(source, Path):  # not in a bucket
        # A folder may have very many files, and Python's file objects take longer than a read.
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            first_bytes = os.read(descriptor, SIGNATURE_BYTES)
        finally:
            os.close(descriptor)
        if pixel_type := _tell_from_signature(identify(first_bytes), first_bytes):
            return pixel_type
    with open_source(source) as file:
        return pixel_type_of(file, identify(file.read(SIGNATURE_BYTES)), page)


def pixel_type_of(file: IO[bytes], image_format: str, page: int) -> str:
    """Does the work of `find_pixel_type` for an open file of a known format, and rewinds the file."""
    file.seek(0)
    pixel_type = _tell_from_signature(image_format, file.read(SIGNATURE_BYTES))
    file.seek(0)
    if pixel_type:
        return pixel_type
    if image_format == "TIFF":
        pixel_type = containers.tiff_page_info(file, page).pixel_type
    elif image_format == "NPY":
        pixel_type = pixel_type_of_array(read_npy_header(file).dtype)
    elif image_format == "JPEG2000":
        header = read_jpeg2000_header(file)
        pixel_type = integer_type(header.bits, header.is_signed)
    elif image_format == "PPM" and file.read(2) == b"Pf":
        pixel_type = "float32"
    elif image_format == "PPM":
        pixel_type = integer_type(read_netpbm_header(file).largest.bit_length())
    elif image_format == "AVIF":
        pixel_type = integer_type(read_avif_bits(file))
    elif image_format == "HEIF":
        pixel_type = integer_type(containers.heif_bits(file))
    else:
        pixel_type = "uint8"
    file.seek(0)
    return pixel_type


def _tell_from_signature(image_format: str, first_bytes: bytes) -> str:
    """Returns the type of pixels that the first bytes of a file say; "" if they do not say it."""
    if image_format == "PNG":
        return "uint16" if first_bytes[24:25] == b"\x10" else "uint8"
    return "uint8" if image_format in ALWAYS_8_BITS else ""


def read_tiff(file: IO[bytes], page: int, check_size: CheckSize) -> np.ndarray:
    """Reads one page of a TIFF file, upright; larger values are brighter. Other pages are not read."""
    with containers.open_tiff(file) as tiff:
        found = containers.find_tiff_page(tiff, page)
        # Refuse sizes and kinds that cannot be read, before any pixel is decoded.
        samples, photometric = found.samplesperpixel, int(found.photometric)
        check_size(found.imagewidth, found.imagelength)
        if found.is_tiled:
            check_size(found.tilewidth, found.tilelength)  # a decoder allocates whole tiles
        has_whole_bytes = found.dtype is not None and (found.bitspersample >= 8 or found.dtype.kind == "b")
        if found.imagedepth != 1 or samples > MAX_SAMPLES or not has_whole_bytes:
            raise ValueError(
                f"its page has {samples} samples of {found.bitspersample} bits in {found.imagedepth} layers; "
                "save it as grey or RGB"
            )
        is_plain = photometric in (MIN_IS_WHITE, MIN_IS_BLACK, RGB_COLOURS)
        if not is_plain and (photometric, int(found.compression)) != JPEG_COLOURS:
            raise ValueError(
                f"its colours are {getattr(found.photometric, 'name', photometric)} of "
                f"{found.bitspersample} bits; save it as grey or RGB"
            )
        # Decode the page, and bring it to the form of a picture.
        pixels = found.asarray(maxworkers=1)
        if found.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        if photometric == MIN_IS_WHITE:
            pixels = _inverted(pixels, found.bitspersample)
        if samples in (2, 4) and len(found.extrasamples) == 1:
            if int(found.extrasamples[0]) == STRAIGHT_ALPHA:
                pixels = over_black(pixels, found.bitspersample)
            else:  # the colours are multiplied by alpha already, or the sample is no alpha
                pixels = pixels[..., :-1]
        orientation = found.tags.get(ORIENTATION_TAG)
        return turn_upright(_without_single_axis(pixels), int(orientation.value) if orientation else 1)


def read_png(file: IO[bytes], page: int, check_size: CheckSize) -> np.ndarray:
    """Reads a PNG of 16 bits by libpng, because Pillow reduces colours of 16 bits to 8 bits."""
    import imagecodecs

    pixels = imagecodecs.png_decode(file.read())
    return over_black(pixels, 16) if pixels.ndim == 3 and pixels.shape[2] in (2, 4) else pixels


def read_jpeg2000(file: IO[bytes], page: int, check_size: CheckSize) -> np.ndarray:
    """Reads a JPEG 2000 image by OpenJPEG, because Pillow multiplies values of 12 bits by 16."""
    import imagecodecs

    header = read_jpeg2000_header(file)
    check_size(header.width, header.height)
    if header.components > MAX_SAMPLES:
        raise ValueError(f"it has {header.components} components; save it as grey or RGB")
    file.seek(0)
    pixels = imagecodecs.jpeg2k_decode(file.read())
    return over_black(pixels, header.bits) if header.components in (2, 4) else pixels


def read_avif(file: IO[bytes], page: int, check_size: CheckSize) -> np.ndarray:
    """Reads an AVIF image of 10 or 12 bits. It is not turned upright."""
    import imagecodecs

    bits = read_avif_bits(file)
    file.seek(0)
    pixels = imagecodecs.avif_decode(file.read(), index=0)
    return over_black(pixels, bits) if pixels.ndim == 3 and pixels.shape[2] in (2, 4) else pixels


def read_heif(file: IO[bytes], page: int, check_size: CheckSize) -> np.ndarray:
    """Reads the main image of an HEIC or HEIF file, upright."""
    image = containers.open_heif(file)
    check_size(*image.size)
    pixels, bits = np.asarray(image), int(image.info.get("bit_depth", 8))
    return over_black(pixels, bits) if pixels.ndim == 3 and pixels.shape[2] in (2, 4) else pixels


def read_netpbm(file: IO[bytes], page: int, check_size: CheckSize) -> np.ndarray:
    """Reads a PGM or PPM image of more than 8 bits, because Pillow stretches the values to 16 bits."""
    header = read_netpbm_header(file)
    check_size(header.width, header.height)
    file.seek(0)
    magic = file.read(2)
    is_text, channels = magic in (b"P2", b"P3"), 3 if magic in (b"P3", b"P6") else 1
    file.seek(header.offset)
    shape = (header.height, header.width, channels)
    count = int(np.prod(shape))
    if is_text:
        words = file.read().split()[:count]
        if len(words) < count or any(len(word) > 5 or not word.isdigit() for word in words):
            raise ValueError("its numbers are cut short or damaged")
        pixels = np.array(words, np.int64)
    else:
        pixels = np.frombuffer(file.read(2 * count), ">u2")
        if len(pixels) < count:
            raise ValueError("it is cut short")
    if pixels.max() > header.largest:
        raise ValueError(f"it has values above {header.largest}, which its header calls the largest")
    return _without_single_axis(pixels.astype(np.uint16).reshape(shape))


def read_npy(file: IO[bytes], page: int, check_size: CheckSize) -> np.ndarray:
    """Reads one image of an array file. Other images are not read, and no pickle is loaded."""
    header = read_npy_header(file)
    check_size(header.shape[1], header.shape[0])
    if page >= header.pages:
        raise ValueError(f"it has no page {page + 1}")
    order: Any = "F" if header.has_fortran_order else "C"
    shape = (header.pages, *header.shape)
    if isinstance(file, io.BytesIO):
        content: Any = memoryview(file.getvalue())[header.offset :]
        pixels = np.ndarray(shape, header.dtype, content, order=order)
    else:
        pixels = np.memmap(file, header.dtype, "r", header.offset, shape, order)
    return np.array(pixels[page])


READERS: dict[str, Callable[[IO[bytes], int, CheckSize], np.ndarray]] = {
    "TIFF": read_tiff,
    "PNG": read_png,
    "JPEG2000": read_jpeg2000,
    "AVIF": read_avif,
    "HEIF": read_heif,
    "PPM": read_netpbm,
    "NPY": read_npy,
}


def over_black(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Lays the last channel of `[h, w, 2 or 4]`, the alpha, over black: `[h, w]` or `[h, w, 3]`.

    Args:
        pixels: integers of `bits` bits, or floats with an alpha in [0, 1].
        bits: the bits of the alpha.
    """
    is_float = pixels.dtype.kind == "f"
    opaque = 1.0 if is_float else float(2**bits - 1)
    alpha = pixels[..., -1:].astype(np.float64) / opaque
    laid = pixels[..., :-1] * alpha
    return _without_single_axis((laid if is_float else np.rint(laid)).astype(pixels.dtype))


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns `[h, w, ...]` as the orientation of EXIF and TIFF (1 to 8) asks."""
    turned = {
        2: lambda: pixels[:, ::-1],
        3: lambda: pixels[::-1, ::-1],
        4: lambda: pixels[::-1],
        5: lambda: pixels.swapaxes(0, 1),
        6: lambda: np.rot90(pixels, -1),
        7: lambda: pixels[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(pixels),
    }
    return np.ascontiguousarray(turned[orientation]()) if orientation in turned else pixels


def _inverted(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Inverts values in which less is brighter, so that more is brighter."""
    if pixels.dtype.kind == "f":
        return 1 - pixels
    if pixels.dtype.kind == "b":
        return ~pixels
    return (
        ~pixels if pixels.dtype.kind == "i" else (2**bits - 1 - pixels.astype(np.int64)).astype(pixels.dtype)
    )


def _without_single_axis(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
