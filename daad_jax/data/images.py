"""One way from a file to `[H, W, C]` uint8, used wherever an image enters."""

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
# A file's name does not say what it holds, and Pillow runs Ghostscript for PostScript.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 2**27  # 134 million: a bound on what one untrusted file can make us allocate
_FILTERS = threading.Lock()  # warning filters belong to the process, decoding runs in threads


def decode(source: Path | bytes, channels: int, name: str = "") -> np.ndarray:
    """Reads an image: EXIF rotation applied, alpha over black, 16 bit scaled by its full range.

    Args:
        source: PNG, JPEG, BMP, TIFF or WebP, a file or its bytes; grey, RGB, palette or alpha.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        name: of the image, for the error; a file has its path.

    Returns:
        uint8 `[H, W, channels]`.

    Raises:
        UserError: not an image, truncated, or larger than MAX_PIXELS.
    """
    shown = name or (source if isinstance(source, Path) else "image")
    try:
        with _opened(source) as image:
            return from_pillow(image, channels, str(shown))
    except UserError:
        raise
    except Exception as error:  # Pillow's plug-ins raise many kinds for broken files
        raise _unreadable(str(shown), error) from error


def from_pillow(image: Image.Image, channels: int, name: str) -> np.ndarray:
    """The pixels that `decode` gives for a file that holds this image.

    Args:
        image: a Pillow image, loaded or not.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        name: the image's name in errors.

    Returns:
        uint8 `[H, W, channels]`.

    Raises:
        UserError: the image is truncated, or larger than MAX_PIXELS.
    """
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{name}: {image.width} x {image.height} pixels are more than the {MAX_PIXELS} "
            "that are read; scale the image down"
        )
    try:
        return _convert(ImageOps.exif_transpose(image), channels)
    except Exception as error:  # Pillow's plug-ins raise many kinds for broken files
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{name}: unreadable image ({reason}); remove or replace it")


def from_array(image: np.ndarray, channels: int, name: str) -> np.ndarray:
    """What `decode` gives for a file that holds these pixels.

    Args:
        image: uint8 or uint16 (scaled by its full range) `[H, W]` or `[H, W, 1, 3 or 4]`.
        channels: 1 (grey, ITU-R 601 luma) or 3 (RGB).
        name: of the image, for the error.

    Returns:
        uint8 `[H, W, channels]`.

    Raises:
        UserError: another type or shape.
    """
    image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    colours = image.ndim == 3 and image.shape[2] in (3, 4)
    if not (image.ndim == 2 or colours) or 0 in image.shape:
        raise UserError(f"{name}: an array of shape {image.shape}; give [H, W] or [H, W, 1, 3 or 4]")
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise UserError(f"{name}: an array of {image.dtype}; give uint8 (0..255) or uint16 (0..65535)")
    return _convert(Image.fromarray(image), channels)


def is_grey(path: Path) -> bool:
    """Whether the file stores one channel (its header is read, not its pixels)."""
    with _opened(path) as image:
        return image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")


def fit(image: np.ndarray, height: int, width: int, how: str, name: str, nearest: bool = False) -> np.ndarray:
    """Brings an image to a size.

    Args:
        image: uint8 `[h, w, C]`.
        height: of the result.
        width: of the result.
        how: "exact" refuses another size; "resize" (antialiased bilinear, the aspect may change);
            "pad" keeps the aspect, shrinks what is too large, and repeats the edges around it.
        name: of the image, for the error.
        nearest: scale by nearest neighbour (for masks), which makes no new values.

    Returns:
        uint8 `[height, width, C]`.

    Raises:
        UserError: another size where `how` is "exact".
    """
    if image.shape[:2] == (height, width):
        return image
    if how == "exact":
        raise UserError(
            f"{name}: {image.shape[0]} x {image.shape[1]} pixels, but config.data wants {height} x "
            f"{width}; set config.data.fit = 'resize' or 'pad'"
        )
    if how == "resize":
        return resize(image, height, width, nearest)
    rows, columns = shrunk(image.shape[0], image.shape[1], height, width)
    if (rows, columns) != image.shape[:2]:
        image = resize(image, rows, columns, nearest)
    margins = (margin(rows, height), margin(columns, width), (0, 0))
    return np.pad(image, margins, mode="edge")


def unfit(
    values: np.ndarray, height: int, width: int, how: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Brings a map over a fitted image back over the image as it was.

    Args:
        values: float32 `[H, W]`, over an image that `fit` brought to H x W by `how`.
        height: of the image before.
        width: of the image before.
        how: as `fit` was told.
        size: rows and columns of the result, where it is to lie over the image at another size.

    Returns:
        float32 `[height, width]`, or of `size`, bilinear.
    """
    if how == "pad":
        rows, columns = shrunk(height, width, *values.shape)
        (top, _), (left, _) = margin(rows, values.shape[0]), margin(columns, values.shape[1])
        values = values[top : top + rows, left : left + columns]
    rows, columns = size or (height, width)
    scaled = Image.fromarray(np.ascontiguousarray(values, np.float32)).resize(
        (columns, rows), Image.Resampling.BILINEAR
    )
    return np.asarray(scaled)


def shrunk(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """The size that an image of (rows, columns) is scaled to before "pad" repeats its edges."""
    scale = min(1.0, height / rows, width / columns)
    return (rows, columns) if scale == 1 else (max(1, round(rows * scale)), max(1, round(columns * scale)))


def margin(inner: int, outer: int) -> tuple[int, int]:
    """Pixels before and after that centre `inner` in `outer`."""
    return (outer - inner) // 2, (outer - inner) - (outer - inner) // 2


def resize(image: np.ndarray, height: int, width: int, nearest: bool = False) -> np.ndarray:
    """Antialiased bilinear, or nearest neighbour: uint8 `[h, w, C]` -> `[height, width, C]`."""
    flat = image[..., 0] if image.shape[-1] == 1 else image
    kind = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    resized = Image.fromarray(flat).resize((width, height), kind)
    return np.asarray(resized).reshape(height, width, image.shape[-1])


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """Opens an image (its header is read) without Pillow's warning of large ones: we have our bound."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    with image:
        yield image


def _convert(image: Image.Image, channels: int) -> np.ndarray:
    target = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = _from_wide(image)
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, (0, 0, 0, 255)), colour)
    return np.asarray(
        image.convert("RGB").convert(target) if image.mode == "P" else image.convert(target)
    ).reshape(image.height, image.width, channels)


def _from_wide(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} outside 0..65535: store 8 or 16 bit images")
    return Image.fromarray((values // 257).astype(np.uint8))
