"""Bytes on the disk that are what was written: space that is taken first, checksums, and fsync."""

import errno
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROWS_PER_TASK = 64  # a thread checks this many rows before it takes others
# File systems that cannot take space in advance answer with one of these.
NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


def take_space(file: Path) -> None:
    """Takes the disk space of a sparse file, so that a full disk is known before the file is written.

    Writing a mapped file to a full disk would kill the process.

    Raises:
        OSError: the disk has too little space.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise


def checksum(pixels: np.ndarray) -> int:
    """The CRC-32 of the bytes of an array."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def checksums_of_rows(array: np.ndarray) -> list[int]:
    """The CRC-32 of every row of `[N, ...]`. Threads read the rows, because the rows may be on a disk."""
    starts = range(0, len(array), ROWS_PER_TASK)

    def check(start: int) -> list[int]:
        return [checksum(row) for row in array[start : start + ROWS_PER_TASK]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [value for values in pool.map(check, starts) for value in values]


def has_checksums(array: np.ndarray, expected: Sequence[int]) -> bool:
    """Whether the rows of `[N, ...]` have the checksums that were written with them."""
    return len(array) == len(expected) and checksums_of_rows(array) == list(expected)


def write_sealed(file: Path, tree: dict[str, Any]) -> None:
    """Writes a table as JSON, with a digest of itself."""
    text = json.dumps(tree)
    file.write_text(json.dumps({"sha256": _digest(text), "content": text}), encoding="utf-8")


def read_sealed(file: Path) -> dict[str, Any]:
    """Reads what `write_sealed` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, TypeError, AttributeError: the file is damaged.
    """
    sealed = json.loads(file.read_text(encoding="utf-8"))
    if _digest(sealed["content"]) != sealed["sha256"]:
        raise ValueError(f"{file}: the content has another digest")
    return dict(json.loads(sealed["content"]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def sync(folder: Path) -> None:
    """Waits until the files of a folder, and their names, are on the disk."""
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
