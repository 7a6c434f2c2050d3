"""Decodes image files in threads, while earlier images are scored."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, TypeVar

from daad_jax.config import DataConfig
from daad_jax.data.decoding import Picture
from daad_jax.data.image_files import ImageFile, digest_of_file
from daad_jax.data.pixel_range import exceeds_range
from daad_jax.errors import UserError

Opened = TypeVar("Opened")  # the type that `open_picture` returns


class Entry(NamedTuple):
    """An image of a batch.

    Attributes:
        file: where the image is.
        error: why the image cannot be scored; None if it can.
        sha256: the SHA-256 of the file, hexadecimal; "" if the file cannot be opened.
    """

    file: ImageFile
    error: UserError | None
    sha256: str


def decode_ahead(
    files: Iterable[ImageFile],
    data: DataConfig,
    open_picture: Callable[[Picture, str], Opened],
    max_ahead: int,
) -> Iterator[tuple[Entry, tuple[Opened, bool] | None]]:
    """Decodes images in threads, at most `max_ahead` of them in advance.

    Args:
        files: the images.
        data: has the range of the run, and the size of the largest image.
        open_picture: prepares a picture, given its name for errors. Runs in a thread.
        max_ahead: the number of images that may wait.

    Yields:
        Each image in order, with the result of `open_picture`, and whether the image had values outside the
        range of the run. None in place of both if the image cannot be used.
    """

    def read(file: ImageFile) -> tuple[Entry, tuple[Opened, bool] | None]:
        try:
            picture, digest = file.load(data.max_pixels)
            opened = open_picture(picture, file.name), exceeds_range(picture, data)
            return Entry(file, None, digest), opened
        except UserError as error:
            digest = ""
            with suppress(UserError):  # a file that cannot be opened has no digest
                digest = digest_of_file(file.path)
            # A new error, because a traceback would keep the image in memory.
            return Entry(file, UserError(str(error)), digest), None

    ahead: deque[Future[tuple[Entry, tuple[Opened, bool] | None]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file in files:
            ahead.append(pool.submit(read, file))
            if len(ahead) > max_ahead:
                yield ahead.popleft().result()
        for future in ahead:
            yield future.result()
