"""The one way from a file or an array to `[H, W, C]` uint8, used wherever an image enters."""

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
MAX_PIXELS = 2**27  # 134 million: bounds the memory that one untrusted file can take
# Warning filters belong to the process, but images are decoded in threads.
_WARNING_FILTERS_LOCK = threading.Lock()


def decode(source: Path | bytes, channels: int, name: str = "") -> np.ndarray:
    """Decodes an image: EXIF rotation is applied, alpha is laid over black, 16 bits are scaled to 8.

    Args:
        source: PNG, JPEG, BMP, TIFF or WebP, as a file or its bytes; grey, RGB, palette or alpha.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        name: what an error calls the image; by default a file's path.

    Returns:
        uint8 `[H, W, channels]`.

    Raises:
        UserError: the source is no image, is cut short, or has more than MAX_PIXELS pixels.
    """
    shown_name = name or (source if isinstance(source, Path) else "image")
    try:
        with _open_image(source) as image:
            return convert_pillow_image(image, channels, str(shown_name))
    except UserError:
        raise
    except Exception as error:  # Pillow's plug-ins raise many kinds of errors for broken files
        raise _unreadable(str(shown_name), error) from error


def convert_pillow_image(image: Image.Image, channels: int, name: str) -> np.ndarray:
    """Converts a Pillow image to what `decode` returns for a file that holds the image.

    Args:
        image: a Pillow image, loaded or not.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        name: the image's name in errors.

    Returns:
        uint8 `[H, W, channels]`.

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
        return _to_uint8(ImageOps.exif_transpose(image), channels)
    except Exception as error:  # Pillow's plug-ins raise many kinds of errors for broken files
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{name}: this file does not exist")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{name}: this is a folder; give its files")
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{name}: the image cannot be read ({reason}); remove or replace the file")


def convert_array(image: np.ndarray, channels: int, name: str) -> np.ndarray:
    """Converts pixels to what `decode` returns for a file that holds these pixels.

    Args:
        image: uint8 or uint16 (scaled by its full range) `[H, W]` or `[H, W, 1, 3 or 4]`.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        name: what an error calls the image.

    Returns:
        uint8 `[H, W, channels]`.

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
    return _to_uint8(Image.fromarray(image), channels)


def is_grey(path: Path) -> bool:
    """Whether the file stores a single channel. Only its header is read."""
    with _open_image(path) as image:
        return image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")


def fit(
    image: np.ndarray, height: int, width: int, mode: str, name: str, nearest: bool = False
) -> np.ndarray:
    """Brings an image to a size.

    Args:
        image: uint8 `[h, w, C]`.
        height: of the result.
        width: of the result.
        mode: "exact" refuses images of another size; "resize" scales (antialiased bilinear) and may change
            the aspect; "pad" keeps the aspect, shrinks images that are too large, and repeats the edge
            pixels around them.
        name: what an error calls the image.
        nearest: scale by nearest neighbour, which makes no new values (for masks).

    Returns:
        uint8 `[height, width, C]`.

    Raises:
        UserError: the image has another size and `mode` is "exact".
    """
    if image.shape[:2] == (height, width):
        return image
    if mode == "exact":
        raise UserError(
            f"{name}: the image has {image.shape[0]} x {image.shape[1]} pixels, but config.data asks for "
            f"{height} x {width}; set config.data.fit = 'resize' or 'pad'"
        )
    if mode == "resize":
        return resize(image, height, width, nearest)
    rows, columns = shrink_to_fit(image.shape[0], image.shape[1], height, width)
    if (rows, columns) != image.shape[:2]:
        image = resize(image, rows, columns, nearest)
    margins = (split_margin(rows, height), split_margin(columns, width), (0, 0))
    return np.pad(image, margins, mode="edge")


def undo_fit(
    values: np.ndarray, height: int, width: int, mode: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Brings a map over a fitted image back to the size of the original image.

    Args:
        values: float32 `[H, W]`, a map over an image that `fit` brought to H x W.
        height: of the original image.
        width: of the original image.
        mode: the `mode` that `fit` was called with.
        size: rows and columns of the result, if it should lie over the original image at another size.

    Returns:
        float32 `[height, width]`, or `[*size]`, scaled bilinearly.
    """
    if mode == "pad":
        rows, columns = shrink_to_fit(height, width, *values.shape)
        (top, _), (left, _) = split_margin(rows, values.shape[0]), split_margin(columns, values.shape[1])
        values = values[top : top + rows, left : left + columns]
    rows, columns = size or (height, width)
    scaled = Image.fromarray(np.ascontiguousarray(values, np.float32)).resize(
        (columns, rows), Image.Resampling.BILINEAR
    )
    return np.asarray(scaled)


def shrink_to_fit(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """The size (rows, columns) that an image of `rows` x `columns` has after it is shrunk, with its aspect
    kept, to at most `height` x `width`. A smaller image keeps its size.
    """
    scale = min(1.0, height / rows, width / columns)
    return (rows, columns) if scale == 1 else (max(1, round(rows * scale)), max(1, round(columns * scale)))


def split_margin(inner: int, outer: int) -> tuple[int, int]:
    """How many of `outer` pixels lie before and after `inner` pixels in their middle."""
    before = (outer - inner) // 2
    return before, outer - inner - before


def resize(image: np.ndarray, height: int, width: int, nearest: bool = False) -> np.ndarray:
    """Scales by an antialiased bilinear filter, or nearest neighbour: uint8 `[h, w, C]` -> `[H, W, C]`."""
    flat = image[..., 0] if image.shape[-1] == 1 else image
    resampling = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    resized = Image.fromarray(flat).resize((width, height), resampling)
    return np.asarray(resized).reshape(height, width, image.shape[-1])


@contextmanager
def _open_image(source: Path | bytes) -> Iterator[Image.Image]:
    """Opens an image and reads its header. Pillow does not warn of large images: `decode` refuses them."""
    with _WARNING_FILTERS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    with image:
        yield image


def _to_uint8(image: Image.Image, channels: int) -> np.ndarray:
    """Converts an image of any of Pillow's modes to uint8 `[H, W, channels]`."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = _narrow(image)
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, (0, 0, 0, 255)), colour)
    if image.mode == "P":
        image = image.convert("RGB")
    converted = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(converted).reshape(image.height, image.width, channels)


def _narrow(image: Image.Image) -> Image.Image:
    """Scales an image of 32-bit pixels that hold 16-bit values to 8 bits.

    Raises:
        ValueError: the pixels have other values.
    """
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"its pixels of mode {image.mode} are not integers in 0..65535: store the image with 8 or 16 bits"
        )
    return Image.fromarray((values // 257).astype(np.uint8))
