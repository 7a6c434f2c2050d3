"""Reads image files in place. A file may hold several images, its pages."""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from daad_jax.buckets import is_in_bucket
from daad_jax.data.containers import PAGED_SUFFIXES, count_pages
from daad_jax.data.decoding import Picture, decode, read_file
from daad_jax.errors import UserError

REMEMBERED_DIGESTS = 64  # this many digests of files with several images are kept


class ImageFile(NamedTuple):
    """One image of a file: `page`, counted from 0, of `pages`."""

    path: Path
    page: int = 0
    pages: int = 1

    @property
    def name(self) -> str:
        """The path. A page has its number at the end, counted from 1: "stack.tif#3"."""
        return f"{self.path}#{self.page + 1}" if self.pages > 1 else str(self.path)

    def load(self, max_pixels: int) -> tuple[Picture, str]:
        """Decodes the image.

        Args:
            max_pixels: an image with more pixels is refused.

        Returns:
            The picture, and the SHA-256 of the file (hexadecimal).

        Raises:
            UserError: the file cannot be read; the message names the image.
        """
        if self.pages > 1:  # the file may be large, so do not read the whole file for each page
            return decode(self.path, self.name, self.page, max_pixels), digest_of_file(self.path)
        content = read_file(self.path)
        return decode(content, self.name, 0, max_pixels), hashlib.sha256(content).hexdigest()


def find_pages(path: Path) -> int:
    """Counts the images in a file. Returns 1 for an unreadable file; `ImageFile.load` then reports it."""
    if not path.name.lower().endswith(PAGED_SUFFIXES):
        return 1
    try:
        return max(1, count_pages(path))
    except UserError:
        return 1


def list_pages(path: Path) -> Iterator[ImageFile]:
    """Yields the images of a file, in order."""
    pages = find_pages(path)
    return (ImageFile(path, page, pages) for page in range(pages))


def digest_of_file(path: Path) -> str:
    """Returns the SHA-256 of a file (hexadecimal). An unchanged file is not read again."""
    try:
        status = path.stat()
        if is_in_bucket(path):  # a path of etils, whose `stat` has other fields
            return _read_digest(path, status.mtime, status.length)  # type: ignore[attr-defined]
        return _read_digest(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read ({error.strerror}); try again") from error


@functools.lru_cache(REMEMBERED_DIGESTS)
def _read_digest(path: Path, changed: int, size: int) -> str:
    """Reads the digest of a file. Time and size are arguments so that the cache notices changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
