"""Keeps the files of a cache entry sound: their space on the disk, their synchronisation, their checksums."""

import errno
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from daad_jax.data.samples import Source
from daad_jax.errors import UserError

# The disk, a quota or a limit of the process gives no more space.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BYTES_PER_READ = 2**24
# An index file has the SHA-256 of its content before the content.
INDEX_START, INDEX_MIDDLE, INDEX_END = b'{"sha256": "', b'",\n"index": ', b"}\n"


class Damaged(Exception):
    """A file has changed since it was written. The message says to people what has changed."""


def create_array(file: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """Creates a memory-mapped array of zeros, and takes its space on the disk.

    If a mapped file is written while the disk is full, the process dies of SIGBUS.

    Raises:
        OSError: there is no space (an errno of `NO_SPACE`), or the file cannot be written.
    """
    array = np.lib.format.open_memmap(file, "w+", np.dtype(dtype), shape)
    size = file.stat().st_size
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            try:
                os.posix_fallocate(opened.fileno(), 0, size)
                return array
            except OSError as error:
                if error.errno in NO_SPACE:
                    raise
    # The system or the file system cannot take space in advance.
    if size > shutil.disk_usage(file.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return array


def checksum(array: np.ndarray) -> int:
    """Returns the CRC-32 of the bytes of an array."""
    return zlib.crc32(np.ascontiguousarray(array).data)


def row_checksums(array: np.ndarray) -> list[int]:
    """Returns the CRC-32 of each row of an array `[N, ...]`."""
    return [checksum(row) for row in array]


def describe_array(file: Path, array: np.memmap) -> list[Any]:
    """Returns the arguments of `open_array`: shape and type of an array, length and CRC-32 of its header."""
    with file.open("rb") as opened:
        header = opened.read(array.offset)
    return [list(array.shape), array.dtype.str, array.offset, zlib.crc32(header)]


def open_array(file: Path, shape: list[int], dtype: str, offset: int, header_checksum: int) -> np.memmap:
    """Opens an array as a read-only memory-mapped file; the arguments come from `describe_array`.

    The header is compared, not parsed, because NumPy's parser is not safe for damaged headers.

    Raises:
        Damaged: the file is missing, or its header or its size has changed.
    """
    try:
        with file.open("rb") as opened:
            header = opened.read(offset)
        if np.dtype(dtype).kind != "u":
            raise Damaged(f"{file.name} holds no integers")
        expected = offset + int(np.prod(shape)) * np.dtype(dtype).itemsize
        if zlib.crc32(header) != header_checksum or file.stat().st_size != expected:
            raise Damaged(f"the size or the header of {file.name} has changed since it was written")
        return np.memmap(file, dtype, "r", offset, tuple(shape))
    except OSError as error:
        raise Damaged(f"{file.name} cannot be read: {error.strerror or error}") from error


def verify_rows(file: Path, array: np.memmap, checksums: Sequence[int]) -> None:
    """Compares each row of an array, as `open_array` opened it, with its CRC-32.

    The file is read, not mapped. If the disk fails, reading gives an error; a mapped file would end the
    process by a signal.

    Raises:
        Damaged: a row differs, or cannot be read.
    """
    if len(array) != len(checksums):
        raise Damaged(f"{file.name} has {len(array)} rows, not {len(checksums)}")
    size = array.nbytes // max(1, len(array))
    step = max(1, BYTES_PER_READ // max(1, size))

    def verify(start: int) -> int:
        """Verifies the rows of one read, and returns their number of bytes."""
        expected = checksums[start : start + step]
        try:
            with file.open("rb") as opened:
                opened.seek(array.offset + start * size)
                content = memoryview(opened.read(len(expected) * size))
        except OSError as error:
            raise Damaged(f"{file.name} cannot be read: {error.strerror}") from error
        for i, value in enumerate(expected):
            if zlib.crc32(content[i * size : (i + 1) * size]) != value:
                raise Damaged(f"row {start + i} of {file.name} has changed since it was written")
        return len(content)

    bar = tqdm(total=array.nbytes, desc="checking the image cache", unit="B", unit_scale=True, delay=1)
    bar.disable = bar.disable or not sys.stderr.isatty()
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:  # reading and zlib release the interpreter's lock
        for count in pool.map(verify, range(0, len(array), step)):
            bar.update(count)


def write_index(file: Path, index: dict[str, Any]) -> str:
    """Writes an index, with its SHA-256, as JSON, and returns the SHA-256."""
    content = json.dumps(index).encode()
    digest = hashlib.sha256(content).hexdigest()
    file.write_bytes(INDEX_START + digest.encode() + INDEX_MIDDLE + content + INDEX_END)
    return digest


def read_index(file: Path) -> tuple[dict[str, Any], str]:
    """Reads an index that `write_index` wrote, and returns it with its SHA-256.

    Raises:
        Damaged: the file is missing or has changed.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise Damaged(f"{file.name} cannot be read: {error.strerror}") from error
    digest = text[len(INDEX_START) : len(INDEX_START) + 64]
    start = INDEX_START + digest + INDEX_MIDDLE
    content = text[len(start) : -len(INDEX_END)]
    is_right = hashlib.sha256(content).hexdigest().encode() == digest
    if not (is_right and text.startswith(start) and text.endswith(INDEX_END)):
        raise Damaged(f"{file.name} has changed since it was written")
    try:
        index = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{file.name} is no index") from error
    if not isinstance(index, dict):
        raise Damaged(f"{file.name} is no index")
    return index, digest.decode()


def sync(path: Path) -> None:
    """Waits until a file, or the list of a folder's files, is on the disk."""
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    with suppress(PermissionError):  # Windows cannot open folders
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def find_changed(source: Source, sha256_of_files: dict[str, str], sha256_of_samples: list[str]) -> str:
    """Reads all encoded images of a source again, and compares them with their SHA-256.

    Args:
        source: the source.
        sha256_of_files: the digests of the files below `source.root`, by name; "" for a file that was not
            read.
        sha256_of_samples: the digests of the images of a source without files, in the order of
            `source.read`; "" for an image that could not be read.

    Returns:
        The name of the first image that has changed; "" if none has.
    """
    # List the images and how to digest one: as files, or as samples of a source without files.
    if source.root is not None:
        root = source.root
        known = [(name, sha256) for name, sha256 in sha256_of_files.items() if sha256]

        def digest(entry: tuple[str, str]) -> str:
            with suppress(OSError), (root / entry[0]).open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
            return ""
    else:
        samples = source.read().samples
        if len(samples) != len(sha256_of_samples):
            return "the list of images"
        loads = {sample.name: sample.load for sample in samples}
        known = [(s.name, sha256) for s, sha256 in zip(samples, sha256_of_samples) if sha256]

        def digest(entry: tuple[str, str]) -> str:
            with suppress(UserError):
                return loads[entry[0]]()[1]
            return ""

    # Digest the images in threads, until one differs.
    bar = tqdm(total=len(known), desc="checking the files", unit="file", delay=1)
    bar.disable = bar.disable or not sys.stderr.isatty()
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for (name, sha256), found in zip(known, pool.map(digest, known)):
                if found != sha256:
                    return str((source.root or Path()) / name)
                bar.update()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return ""
