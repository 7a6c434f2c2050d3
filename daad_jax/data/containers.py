"""Counts the images in files that can hold several images, and finds the pages of a TIFF file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from PIL import GifImagePlugin

from daad_jax.data.headers import (
    SIGNATURE_BYTES,
    identify,
    open_source,
    pixel_type_of_array,
    read_npy_header,
)
from daad_jax.errors import UserError

# Files with one of these suffixes can hold several images; `count_pages` says how many.
PAGED_SUFFIXES = (".tif", ".tiff", ".btf", ".gif", ".npy")
HEIF_PACKAGE = (
    "HEIC images need the package pillow-heif of the extra heic: pip install '.[heic]' in a checkout of the "
    "repository"
)


class TiffPageInfo(NamedTuple):
    """A page's place among all pages of its file, and the type and the number of its pixels."""

    frame: int
    pixel_type: str
    pixels: int


def count_pages(source: Path | bytes) -> int:
    """Counts the images in a file: pages of TIFF, frames of GIF, or N of an array `[N, h, w, ...]`.

    Only headers are read. Thumbnails, smaller copies and masks inside a TIFF file do not count. Files of
    other formats hold one image.

    Raises:
        UserError: the file is broken, or is no image.
    """
    try:
        with open_source(source) as file:
            image_format = identify(file.read(SIGNATURE_BYTES))
            file.seek(0)
            if not image_format:
                raise ValueError("cannot identify image file: it begins like no format that is read")
            if image_format == "NPY":
                return read_npy_header(file).pages
            if image_format == "GIF":
                return GifImagePlugin.GifImageFile(file).n_frames
            if image_format == "TIFF":
                with open_tiff(file) as tiff:
                    return sum(1 for _ in image_pages(tiff))
            return 1
    except Exception as error:  # the libraries raise many kinds of errors for broken files
        raise unreadable("image" if isinstance(source, bytes) else str(source), error) from error


@contextmanager
def open_tiff(file: IO[bytes]) -> Iterator[Any]:
    """Opens a TIFF file with tifffile.

    Raises:
        ValueError: the file has images that are no pages, so a reader of pages would miss them.
    """
    import tifffile  # slow to import, and most data sets have no TIFF files

    with tifffile.TiffFile(file, name="image") as tiff:  # type: ignore[arg-type]
        hidden = int((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej else 1
        is_truncated = any(found.get("truncated") for found in tiff.shaped_metadata or ())
        if (hidden > len(tiff.pages) or is_truncated) and len(tiff.pages) == 1:
            raise ValueError("it stores a stack of images behind a single page; save them as pages")
        yield tiff


def image_pages(tiff: Any) -> Iterator[Any]:
    """Yields the pages of a TIFF file without thumbnails, smaller copies and masks."""
    for page in tiff.pages:
        if not (page.is_reduced or page.is_mask):
            yield page


def find_tiff_page(tiff: Any, number: int) -> Any:
    """Returns page `number` (from 0) of `image_pages`. Raises ValueError if there are fewer pages."""
    for index, page in enumerate(image_pages(tiff)):
        if index == number:
            return page
    raise ValueError(f"it has no page {number + 1}")


def tiff_page_info(file: IO[bytes], number: int) -> TiffPageInfo:
    """Returns the place of page `number` of `image_pages` in the file, and the type of its pixels."""
    file.seek(0)
    with open_tiff(file) as tiff:
        page = find_tiff_page(tiff, number)
        pixel_type = "uint8" if page.dtype is None else pixel_type_of_array(page.dtype)
        return TiffPageInfo(int(page.index), pixel_type, page.imagewidth * page.imagelength)


def open_heif(file: IO[bytes]) -> Any:
    """Opens an HEIC or HEIF file, without decoding its pixels yet.

    Raises:
        ImportError: the package is not installed; the message says how to get it.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImportError(HEIF_PACKAGE) from error
    return pillow_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False)


def heif_bits(file: IO[bytes]) -> int:
    """Reads the bits of a pixel of an HEIC file."""
    return int(open_heif(file).info.get("bit_depth", 8))


def unreadable(name: str, error: Exception) -> UserError:
    """Makes the error for an unreadable file: one line with its name and the remedy."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{name}: this file does not exist")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{name}: this is a folder; give its files")
    if isinstance(error, ImportError):
        return UserError(f"{name}: {error}")
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{name}: the image cannot be read ({reason}); remove or replace the file")
