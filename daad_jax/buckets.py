"""Reads folders in a bucket of Google Cloud Storage: `gs://BUCKET/FOLDER` may replace a local folder.

A path in a bucket is an `epath.Path`, which reads like `pathlib.Path`. This module has everything in which
reading a bucket differs from reading a disk; `uploads.py` writes into buckets.
"""

import errno
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

from daad_jax.errors import UserError

SCHEME = "gs://"
PACKAGES = ("gcsfs", "google.cloud.storage")  # the extra gcs installs them
CHECK_TIMEOUT_S = 30.0
# An error of these modules is about the network, the rights or the bucket.
CLIENT_MODULES = ("gcsfs", "aiohttp", "google", "requests", "urllib3")
MAX_REASON = 200  # characters of a library's error message
MAX_SMALL_BYTES = 2**20
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # `Path("gs://x")` has lost a slash


class BucketObject(NamedTuple):
    """An object below a folder.

    Attributes:
        name: the path of the object below the folder.
        size: the size in bytes.
        generation: the number of this version of the object.
    """

    name: str
    size: int
    generation: int


def is_in_bucket(path: object) -> bool:
    """Returns whether a path, or the text of a path, is in a bucket."""
    return str(path).startswith(SCHEME)


def open_place(text: str | os.PathLike[str]) -> Path:
    """Returns the path of a file or folder, on this machine or in a bucket.

    A path in a bucket is an `epath.Path`. It has all methods of `pathlib.Path` that read, so its declared
    type is `Path`.

    Raises:
        UserError: the text is a URL of another kind, the packages for buckets are not installed, or the
            bucket cannot be used.
    """
    text = os.fspath(text)
    if not URL.match(text):
        return Path(text)
    bucket = text.removeprefix(SCHEME).partition("/")[0]
    if not text.startswith(SCHEME) or not bucket:
        raise UserError(
            f"{text}: this kind of address cannot be used; give a folder of this machine, or "
            "gs://BUCKET/FOLDER; mount other storage as a folder first, or copy its files"
        )
    _set_up()
    _require_bucket(bucket, os.getpid())
    from etils import epath

    return cast(Path, epath.Path(text))


def make_absolute(path: Path) -> Path:
    """Returns the absolute form of a path. A path in a bucket is absolute, but etils does not know this."""
    return path if is_in_bucket(path) else path.resolve()


def _set_up() -> None:
    """Prepares the packages for buckets. Raises UserError if one of them is missing."""
    for package in PACKAGES:
        if not _is_installed(package):
            raise UserError(
                f"{SCHEME} needs the package {package.replace('.', '-')} of the extra gcs: pip install "
                "'.[gcs]' in a checkout of the repository"
            )
    # If TensorFlow is installed, etils would read buckets with TensorFlow.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec.config

    # A cached listing would never show the checkpoints of another process.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


@functools.lru_cache
def _require_bucket(bucket: str, process: int) -> None:
    """Raises UserError if this process cannot list the objects of a bucket."""
    from google.api_core import exceptions
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud.storage.retry import DEFAULT_RETRY

    try:
        listing = client().list_blobs(
            bucket, max_results=1, retry=DEFAULT_RETRY.with_timeout(CHECK_TIMEOUT_S)
        )
        next(iter(listing), None)
    except Exception as error:
        if isinstance(error, exceptions.NotFound):
            reason = "there is no such bucket; correct its name, or make it: gcloud storage buckets create"
        elif isinstance(error, (DefaultCredentialsError, exceptions.Unauthorized)):
            reason = "nobody is logged in; run gcloud auth application-default login"
        elif isinstance(error, exceptions.Forbidden):
            reason = "this account may not list it; give it the role Storage Object User for this bucket"
        else:
            reason = f"it does not answer: {_word(error)}; look at the network, then try again"
        raise UserError(f"{SCHEME}{bucket}: {reason}") from error


@functools.lru_cache
def client() -> Any:
    """Returns the client of Google Cloud Storage, for operations with conditions."""
    from google.cloud import storage

    return storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT", "none"))  # objects need no project


def blob(path: Path) -> Any:
    """Returns the object at a path in a bucket, for the client."""
    bucket, _, name = str(path).removeprefix(SCHEME).partition("/")
    return client().bucket(bucket).blob(name)


@contextmanager
def os_errors(path: object) -> Iterator[None]:
    """Wraps a block that uses a bucket, and turns errors of the client into OSErrors that name `path`."""
    try:
        yield
    except OSError as error:
        if error.strerror:
            raise
        if isinstance(error, FileNotFoundError):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        raise OSError(errno.EIO, _word(error), str(path)) from error
    except Exception as error:
        if not is_client_error(error):
            raise
        is_missing = getattr(error, "code", None) == 404
        raise OSError(errno.ENOENT if is_missing else errno.EIO, _word(error), str(path)) from error


def is_client_error(error: Exception) -> bool:
    """Returns whether an error is about the network, the rights or the bucket."""
    return type(error).__module__.partition(".")[0] in CLIENT_MODULES


def _word(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_REASON] or type(error).__name__


def read_bytes(path: Path) -> bytes:
    """Reads a file. An object in a bucket is read in one request. Raises OSError."""
    if not is_in_bucket(path):
        return path.read_bytes()
    with os_errors(path):
        return bytes(file_system().cat_file(str(path)))


def size_of(path: Path) -> int:
    """Returns the size of a file in bytes. Raises OSError."""
    if not is_in_bucket(path):
        return path.stat().st_size
    with os_errors(path):
        return int(file_system().size(str(path)))


def glob(pattern: str) -> list[Path]:
    """Returns the objects and folders that match `gs://BUCKET/PATTERN`, sorted. Raises OSError."""
    with os_errors(pattern):
        return [open_place(SCHEME + match) for match in sorted(file_system().glob(pattern))]


def list_objects(folder: Path) -> list[BucketObject]:
    """Returns all objects below a folder, in the order of their names. Raises OSError."""
    prefix = blob(folder / "x").name[:-1]
    fields = "items(name,size,generation),nextPageToken"
    with os_errors(folder):
        found = client().list_blobs(blob(folder / "x").bucket, prefix=prefix, fields=fields)
        return [
            BucketObject(each.name.removeprefix(prefix), int(each.size or 0), int(each.generation or 0))
            for each in found
            if not each.name.endswith("/")  # some programs write such an object for an empty folder
        ]


def file_system() -> Any:
    """Returns the file system of fsspec that reads and writes buckets."""
    import fsspec

    # With the options of etils, fsspec returns the object that etils uses, too.
    return fsspec.filesystem("gcs", finalize_on_close=True)


class SmallObject(NamedTuple):
    """A small object in a bucket.

    Attributes:
        content: the bytes of the object.
        generation: the number of this version of the object.
        updated: when this version was written.
    """

    content: bytes
    generation: int
    updated: datetime


def read_small(path: Path) -> SmallObject | None:
    """Reads an object of at most a megabyte.

    Returns:
        The object; None if it does not exist. The content may be newer than the number of the version.

    Raises:
        ValueError: the object is larger.
    """
    from google.api_core.exceptions import NotFound

    asked = blob(path)
    if (found := asked.bucket.get_blob(asked.name)) is None:
        return None
    if found.size > MAX_SMALL_BYTES:
        raise ValueError(f"{path} has {found.size} bytes")
    try:
        content = asked.download_as_bytes() if found.size else b""
    except NotFound:
        return None
    return SmallObject(content, int(found.generation), found.updated)
