"""From a file, its bytes or an array to a picture: pixels as they are stored, upright, of bounded size."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from daad_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Only these decoders may run, whatever a file is called: for PostScript, Pillow would run Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
PAGED_SUFFIXES = (".tif", ".tiff")  # files of these kinds may hold several images
SIGNATURE_BYTES = 16  # the first bytes of a file, which tell its format
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF")
MAX_PIXELS = 2**27  # 134 million: bounds the memory that one untrusted file can take
ORIENTATION_TAG = 0x0112  # of EXIF; 1 is upright
# Warning filters belong to the process, but images are decoded in threads.
_WARNING_FILTERS_LOCK = threading.Lock()

Picture = Image.Image  # decoded, upright, in one of Pillow's modes of 8 bits


def decode(source: Path | bytes, name: str = "", page: int = 0, keep_depth: bool = False) -> Picture:
    """Decodes an image and applies its EXIF rotation; 16 bits are scaled to 8.

    Args:
        source: PNG, JPEG, BMP, TIFF or WebP, as a file or its bytes; grey, RGB, palette or alpha.
        name: what an error calls the image; by default a file's path.
        page: which of a file's images, counted from 0.
        keep_depth: leave pixels of more than 8 bits as they are stored.

    Raises:
        UserError: the source is no image, is cut short, or has more than MAX_PIXELS pixels.
    """
    shown_name = str(name or (source if isinstance(source, Path) else "image"))
    try:
        with _open_image(source) as image:
            if page:
                image.seek(page)
            return convert_pillow_image(image, shown_name, keep_depth)
    except UserError:
        raise
    except Exception as error:  # Pillow's plug-ins raise many kinds of errors for broken files
        raise _unreadable(shown_name, error) from error


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises UserError if the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(str(path), error) from error


def convert_pillow_image(image: Image.Image, name: str, keep_depth: bool = False) -> Picture:
    """Converts a Pillow image to what `decode` returns for a file that holds the image.

    Args:
        image: a Pillow image, loaded or not. It is not changed.
        name: the image's name in errors.
        keep_depth: leave pixels of more than 8 bits as they are stored.

    Raises:
        UserError: the image is cut short, or has more than MAX_PIXELS pixels.
    """
    if 0 in image.size:
        raise UserError(f"{name}: the image has no pixels; remove or replace it")
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{name}: the image has {image.width} x {image.height} pixels, more than the limit of "
            f"{MAX_PIXELS}; scale the image down"
        )
    try:
        image.load()
        if image.getexif().get(ORIENTATION_TAG, 1) != 1:
            image = ImageOps.exif_transpose(image)
        return image if keep_depth else _narrow(image)
    except Exception as error:  # Pillow's plug-ins raise many kinds of errors for broken files
        raise _unreadable(name, error) from error


def convert_array(image: np.ndarray, name: str) -> Picture:
    """Converts pixels to what `decode` returns for a file that holds these pixels.

    Args:
        image: uint8 or uint16 (scaled by its full range) `[H, W]` or `[H, W, 1, 3 or 4]`.
        name: what an error calls the image.

    Raises:
        UserError: the array has another type or shape.
    """
    image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    has_colours = image.ndim == 3 and image.shape[2] in (3, 4)
    if not (image.ndim == 2 or has_colours) or 0 in image.shape:
        raise UserError(
            f"{name}: the array has the shape {image.shape}; give an array [H, W] or [H, W, 1, 3 or 4]"
        )
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise UserError(
            f"{name}: the array is of type {image.dtype}; give uint8 (0..255) or uint16 (0..65535)"
        )
    return Image.fromarray(image)


def count_pages(path: Path) -> int:
    """How many images a file holds. Raises UserError if the file cannot be read."""
    try:
        with _open_image(path) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception as error:  # Pillow's plug-ins raise many kinds of errors for broken files
        raise _unreadable(str(path), error) from error


def has_image_signature(first_bytes: bytes) -> bool:
    """Whether a file that begins with these bytes is of a format that `decode` reads."""
    return first_bytes.startswith(_SIGNATURES)


def is_grey(path: Path) -> bool:
    """Whether the file stores a single channel. Only its header is read."""
    with _open_image(path) as image:
        return image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")


def _unreadable(name: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{name}: this file does not exist")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{name}: this is a folder; give its files")
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{name}: the image cannot be read ({reason}); remove or replace the file")


@contextmanager
def _open_image(source: Path | bytes) -> Iterator[Image.Image]:
    """Opens an image and reads its header. Pillow does not warn of large images: `decode` refuses them."""
    with _WARNING_FILTERS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    with image:
        yield image


def _narrow(image: Image.Image) -> Picture:
    """Scales 16-bit pixels, also those that are stored in 32 bits, to 8 bits.

    Raises:
        ValueError: 32-bit pixels have other values.
    """
    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"its pixels of mode {image.mode} are not integers in 0..65535: store the image with 8 or 16 bits"
        )
    return Image.fromarray((values // 257).astype(np.uint8))
