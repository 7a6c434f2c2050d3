"""Decodes a file, its bytes or an array to a picture: the stored pixel values, upright, of bounded size.

Pillow decodes files of 8 bits, and `deep_pixels.py` decodes deeper files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from daad_jax.buckets import is_in_bucket, read_bytes
from daad_jax.config import MAX_PIXELS
from daad_jax.data import containers
from daad_jax.data.containers import find_tiff_page, open_tiff, unreadable
from daad_jax.data.deep_pixels import ORIENTATION_TAG, READERS, over_black, pixel_type_of, turn_upright
from daad_jax.data.headers import (
    SIGNATURE_BYTES,
    identify,
    open_source,
    pixel_type_of_array,
    read_npy_header,
)
from daad_jax.errors import UserError

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".btf", ".webp", ".gif",
    ".jp2", ".j2k", ".j2c", ".jpx", ".avif", ".heic", ".heif", ".hif", ".pgm", ".ppm", ".pnm", ".pbm", ".pfm",
    ".npy",
)  # fmt: skip
# The content of a file chooses its opener; the name does not matter. PostScript is missing, because Pillow
# would run Ghostscript. We do not call `Image.open`, because its limit of the size is global to all threads.
OPENERS: dict[str, Callable[[IO[bytes]], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
ANIMATIONS = ("PNG", "WEBP", "AVIF")
GREY_MODES = ("1", "L", "LA", "I", "F")
# The types that pixels of more than 8 bits may have in a picture.
DEEP_TYPES = ("int8", "int16", "uint16", "int32", "uint32", "float32")

# A picture is upright. A picture of 8 bits is a Pillow image (of any mode). Any other picture is an array of
# one of DEEP_TYPES, `[h, w]` or `[h, w, 3]`, with the values of its file; alpha is laid over black.
Picture = Image.Image | np.ndarray


def decode(source: Path | bytes, name: str = "", page: int = 0, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decodes an image and turns it upright, as EXIF or TIFF says.

    Args:
        source: an image of a format in the table of docs/data.md, as a file or its bytes.
        name: the image's name in errors; "": the path of the file.
        page: the number of the image in a file that holds several, from 0; see `containers.count_pages`.
        max_pixels: an image with more pixels is refused before its memory is allocated.

    Returns:
        A picture; the comment at `Picture` describes it.

    Raises:
        UserError: the source is no image, is cut short, is an animation, has no such page, or is too large.
    """
    shown_name = str(name or ("image" if isinstance(source, bytes) else source))
    try:
        with open_source(source) as file:
            return _decode_file(file, shown_name, page, max_pixels)
    except UserError:
        raise
    except Exception as error:  # the libraries raise many kinds of errors for broken files
        raise unreadable(shown_name, error) from error


def read_file(path: Path) -> bytes:
    """Returns the bytes of a file.

    Raises:
        UserError: the file cannot be read, or may never end: a device or a pipe.
    """
    try:
        if not is_in_bucket(path) and path.exists() and not path.is_file() and not path.is_dir():
            raise UserError(f"{path}: is no regular file; give a file, the bytes of one, or pixels")
        return read_bytes(path)
    except (OSError, ValueError) as error:  # ValueError: no system has a file of this name
        raise unreadable(str(path), error) from error


def convert_pillow_image(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """Converts a Pillow image to what `decode` returns for a file that holds the image.

    Args:
        image: a Pillow image, loaded or not. It is not changed.
        name: the image's name in errors.
        max_pixels: an image with more pixels is refused.

    Raises:
        UserError: the image is cut short, or has too many pixels.
    """
    try:
        return _convert(image, name, max_pixels)
    except UserError:
        raise
    except Exception as error:  # Pillow's plug-ins raise many kinds of errors for broken files
        raise unreadable(name, error) from error


def convert_array(image: np.ndarray, name: str, max_pixels: int | None = None) -> Picture:
    """Converts pixels to what `decode` returns for a file that holds these pixels.

    Args:
        image: `[H, W]` or `[H, W, 1, 3 or 4]` of booleans, floats, or integers of 8, 16 or 32 bits; a
            fourth channel is alpha.
        name: the image's name in errors.
        max_pixels: an image with more pixels is refused; None: the caller has checked the size.

    Raises:
        UserError: the array has another type or shape, too many pixels, or values that are not finite.
    """
    # Check the shape, the size and the type.
    image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    has_colours = image.ndim == 3 and image.shape[2] in (3, 4)
    if not (image.ndim == 2 or has_colours) or 0 in image.shape:
        raise UserError(
            f"{name}: the array has the shape {image.shape}; give an array [H, W] or [H, W, 1, 3 or 4]"
        )
    if max_pixels is not None:  # an array that repeats its values may have more pixels than the memory holds
        _check_size(image.shape[1], image.shape[0], name, max_pixels)
    pixel_type = pixel_type_of_array(image.dtype)
    if pixel_type not in ("uint8", *DEEP_TYPES):
        raise UserError(
            f"{name}: the array is of type {image.dtype}; give uint8 (0..255), uint16 (0..65535), or floats "
            "(0..1, or as config.data.range says)"
        )
    # Convert: 8 bits become a Pillow image, deeper pixels stay an array.
    if pixel_type == "uint8":
        return Image.fromarray(image.astype(np.uint8) * np.uint8(255) if image.dtype == bool else image)
    if has_colours and image.shape[2] == 4:
        image = over_black(image, 8 * image.dtype.itemsize - (image.dtype.kind == "i"))
    with np.errstate(over="ignore"):
        image = np.ascontiguousarray(image, pixel_type)
    if pixel_type == "float32" and not np.isfinite(image).all():
        count = int(np.size(image) - np.isfinite(image).sum())
        raise UserError(
            f"{name}: {count} of its values are not finite numbers (NaN, infinite, or beyond float32); "
            "replace them"
        )
    return image


def picture_size(picture: Picture) -> tuple[int, int]:
    """Returns the height and the width of a picture in pixels."""
    if isinstance(picture, np.ndarray):
        return picture.shape[0], picture.shape[1]
    return picture.height, picture.width


def is_grey_picture(picture: Picture) -> bool:
    """Whether a picture has a single channel, with or without alpha."""
    if isinstance(picture, np.ndarray):
        return picture.ndim == 2 or picture.shape[2] == 1
    return picture.mode in GREY_MODES


def is_grey(path: Path) -> bool:
    """Whether the file stores a single channel. Only its header is read."""
    with open_source(path) as file:
        image_format = identify(file.read(SIGNATURE_BYTES))
        file.seek(0)
        if image_format == "NPY":
            return len(read_npy_header(file).shape) == 2 or read_npy_header(file).shape[2] == 1
        if image_format == "HEIF":
            return str(containers.open_heif(file).mode).startswith("L")
        if image_format == "TIFF":
            with open_tiff(file) as tiff:
                first = find_tiff_page(tiff, 0)
                return first.samplesperpixel < 3 and int(first.photometric) in (0, 1)
        with OPENERS[image_format](file) as image:
            return image.mode in GREY_MODES or image.mode.startswith("I;16")


def _decode_file(file: IO[bytes], name: str, page: int, max_pixels: int) -> Picture:
    """Decodes one page of an open image file, by Pillow or by the reader of its format."""
    image_format = identify(file.read(SIGNATURE_BYTES))
    if not image_format:
        raise ValueError("cannot identify image file: it begins like no format that is read")
    if page and image_format not in ("TIFF", "GIF", "NPY"):
        raise ValueError(f"it has no page {page + 1}")
    frame, is_large = page, False
    if image_format == "TIFF":
        frame, pixel_type, pixels = containers.tiff_page_info(file, page)
        is_large = pixels > (Image.MAX_IMAGE_PIXELS or pixels)  # Pillow would warn of it, or refuse it
    else:
        pixel_type = pixel_type_of(file, image_format, page)

    def read_deep() -> np.ndarray:
        file.seek(0)
        return READERS[image_format](
            file, page, lambda width, height: _check_size(width, height, name, max_pixels)
        )

    is_pillows = pixel_type == "uint8" or (image_format, pixel_type) == ("PPM", "float32")
    if image_format not in OPENERS or is_large or (image_format in ("TIFF", "PPM") and not is_pillows):
        return convert_array(read_deep(), name)
    file.seek(0)
    try:
        with OPENERS[image_format](file) as image:
            _refuse_animation(image, image_format, name)
            if image_format != "TIFF":  # each page of a TIFF file has its own size
                _check_size(image.width, image.height, name, max_pixels)
            if frame:
                image.seek(frame)
            is_plain_png = image_format == "PNG" and image.mode == "I;16" and "transparency" not in image.info
            if is_pillows or is_plain_png:
                return _convert(image, name, max_pixels)
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except UserError:
        raise
    except Exception as error:
        # tifffile knows more compressions than Pillow, and no limit of the size.
        if image_format == "TIFF":
            return convert_array(read_deep(), name)
        if isinstance(error, Image.DecompressionBombError):
            raise ValueError(
                f"{image_format} files of so many pixels are not read; save it as PNG or TIFF"
            ) from error
        raise
    return convert_array(turn_upright(read_deep(), orientation), name)


def _convert(image: Image.Image, name: str, max_pixels: int) -> Picture:
    """Does the work of `convert_pillow_image`, but lets errors of Pillow's plug-ins through."""
    _check_size(image.width, image.height, name, max_pixels)
    image.load()
    orientation = image.getexif().get(ORIENTATION_TAG, 1)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "I" and values.min() >= 0 and values.max() < 2**16:  # Pillow's way to hold 16 bits
            values = values.astype(np.uint16)
        return convert_array(turn_upright(values, orientation), name)
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _refuse_animation(image: Image.Image, image_format: str, name: str) -> None:
    frames = getattr(image, "n_frames", 1) if image_format in ANIMATIONS else 1
    if frames > 1:
        raise UserError(
            f"{name}: the file is an animation of {frames} pictures; split it into files of one picture each"
        )


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height == 0:
        raise UserError(f"{name}: the image has no pixels; remove or replace it")
    if width * height > max_pixels:
        raise UserError(
            f"{name}: the image has {width} x {height} pixels, more than the limit of {max_pixels}; scale "
            "the image down, or raise config.data.max_pixels"
        )
